"""Looks at pages in a headless Chromium, at several widths and without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

_ALONE = (
    "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'\"><script>window.faults = [];"
    "addEventListener('error', e => faults.push(e.message || 'a file does not load'), true);"
    "addEventListener('securitypolicyviolation', e => faults.push('it asks for ' + e.blockedURI));</script>"
)
# What lies in a box that scrolls on its own may be wider than the page. A drawing's words stay in its figure.
_MEASURE = """<script>addEventListener('load', () => {
  for (const each of document.querySelectorAll('details')) each.open = true;
  const scroll = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
  const scrolls = e => e && (scroll(e) || scrolls(e.parentElement));
  const wide = [];
  for (const each of document.querySelectorAll('body *')) {
    const box = each.getBoundingClientRect(), figure = each.closest('figure');
    const page = {left: 0, right: document.documentElement.clientWidth};
    const room = figure ? figure.getBoundingClientRect() : page;
    if (!box.width || scrolls(each.parentElement)) continue;
    if (box.right > room.right + 1 || box.left < room.left - 1)
      wide.push(`${each.tagName} ${each.textContent.trim().slice(0, 40)}`);
  }
  for (const each of document.images) if (!each.naturalWidth) faults.push('an image shows nothing');
  parent.postMessage({name: window.name, wide, faults}, '*');
});</script>"""
_FRAMES = """<!doctype html><pre id=seen></pre><script>
const seen = {};
addEventListener('message', e => {
  seen[e.data.name] = [e.data.wide, e.data.faults];
  document.getElementById('seen').textContent = JSON.stringify(seen);
});</script>"""


class Seen(NamedTuple):
    """Of a page at a width: what reaches beyond it, and what went wrong while it loaded."""

    wide: list[str]
    faults: list[str]


def look(
    pages: Mapping[str, Path], widths: Iterable[int], folder: Path
) -> tuple[dict[tuple[str, int], Seen], list[str]]:
    """Every page at every width, all `details` open; and the lines that the browser's console has."""
    frames = [_FRAMES]
    for name, path in pages.items():
        content = path.read_text(encoding="utf-8").replace("<head>", f"<head>{_ALONE}", 1)
        (folder / f"{name}.html").write_text(content.replace("</body>", f"{_MEASURE}</body>", 1))
        for width in widths:
            style = f"border: 0; width: {width}px; height: 900px"
            frames.append(f'<iframe name="{name} {width}" src="{name}.html" style="{style}"></iframe>')
    (folder / "frames.html").write_text("\n".join(frames))
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", "--dump-dom"),
            (folder / "frames.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found and found[1], done.stderr[-2000:]
    seen = {}
    for name, (wide, faults) in json.loads(html.unescape(found[1])).items():
        page, _, width = name.rpartition(" ")
        seen[page, int(width)] = Seen(wide, faults)
    return seen, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
