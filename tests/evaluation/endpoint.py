"""A server on a local socket that speaks chat completions, well or badly, as a test tells it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789abcdefSECRET"

Act = Callable[["Handler", dict[str, Any]], None]
"""What happens to a request: its handler, and its body."""


def completion(text: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 50},
    }


def scores(body: Mapping[str, Any], value: int = 7) -> dict[str, Any]:
    """Every score that the prompt asks for, at `value`."""
    text = body["messages"][0]["content"][0]["text"]
    start = text.index("of the form {") + len("of the form ")
    names = json.JSONDecoder().raw_decode(text, start)[0]["scores"]
    answer = {"reasoning": "fine", "scores": dict.fromkeys(names, value)}
    return completion(f"Here it is:\n```json\n{json.dumps(answer)}\n```")


def good(handler: Handler, body: dict[str, Any]) -> None:
    handler.endpoint.answered.append(handler.endpoint.content_of(body))  # before the other side goes on
    handler.send(200, json.dumps(scores(body)).encode())


def says(text: str | None, finish: str = "stop", **message: Any) -> Act:
    def act(handler: Handler, body: dict[str, Any]) -> None:
        handler.endpoint.answered.append(handler.endpoint.content_of(body))
        handler.send(200, json.dumps(completion(text, finish, **message)).encode())

    return act


def status(code: int, text: str = "no", **headers: str) -> Act:
    def act(handler: Handler, body: dict[str, Any]) -> None:
        content = json.dumps({"error": {"message": text}}).encode()
        handler.send(code, content, {name.replace("_", "-"): value for name, value in headers.items()})

    return act


def raw(content: bytes) -> Act:
    return lambda handler, body: handler.send(200, content)


def truncated(handler: Handler, body: dict[str, Any]) -> None:
    """Half an answer, and then the line is dead."""
    content = json.dumps(scores(body)).encode()
    handler.send(200, content[: len(content) // 2], {"Content-Length": str(len(content))})
    handler.close_connection = True


def dead(handler: Handler, body: dict[str, Any]) -> None:
    """No answer at all."""
    handler.close_connection = True


def silent(handler: Handler, body: dict[str, Any]) -> None:
    """Nothing comes while the test lasts."""
    handler.endpoint.over.wait(60)
    handler.close_connection = True


def dripping(handler: Handler, body: dict[str, Any]) -> None:
    """A letter at a time, so that no single read takes long."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        time.sleep(0.01)
        if handler.endpoint.over.is_set():
            break
    handler.close_connection = True


def dripping_headers(handler: Handler, body: dict[str, Any]) -> None:
    """Headers, a letter at a time."""
    handler.send_response(200)
    handler.flush_headers()
    for _ in range(100):
        handler.wfile.write(b"x")
        if handler.endpoint.over.wait(0.02):
            break
    handler.close_connection = True


class Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        endpoint = self.endpoint
        with endpoint.lock:
            endpoint.bodies.append(body)
            endpoint.authorisations.append(self.headers.get("Authorization"))
            endpoint.paths.append(self.path)
            act = endpoint.script.pop(0) if endpoint.script else endpoint.default
        try:
            act(self, body)
        except OSError:  # who asked has gone
            self.close_connection = True

    def send(self, code: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(content))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Endpoint:
    """What was asked, and what happens next: `script`, and then `default`."""

    def __init__(self) -> None:
        self.script: list[Act] = []
        self.default: Act = good
        self.bodies: list[dict[str, Any]] = []
        self.authorisations: list[str | None] = []
        self.paths: list[str] = []
        self.answered: list[str] = []
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.url = ""

    @staticmethod
    def content_of(body: Mapping[str, Any]) -> str:
        return json.dumps(body["messages"], sort_keys=True)


@contextmanager
def serving() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"endpoint": endpoint}))
    server.daemon_threads = True
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
