"""Reads a page strictly: what a browser would repair in silence is an error here."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

_VOID = {"meta", "img", "br"}
_SHAPES = {"line", "polyline", "polygon", "rect"}


class Page(HTMLParser):
    """A page whose elements close in order.

    Attributes:
        texts: all text outside style sheets, one string per element.
        images: sizes of the images, each decoded.
        labels: what drawings say in words.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.images: list[tuple[int, int]] = []
        self.labels: list[str] = []
        self._open: list[str] = []
        content = path.read_text(encoding="utf-8")
        assert content.startswith("<!doctype html>") and '<html lang="en">' in content
        words = re.sub(r'"data:[^"]*"', "", content)
        assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link", words), "it points outside"
        self.feed(content)
        self.close()
        assert not self._open, f"{self._open} are still open"
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f"{tag} has an attribute twice"
        if tag == "img":
            assert (given.get("alt") or "").strip(), "an image says nothing to who cannot see it"
            kind, _, content = (given["src"] or "").partition(",")
            assert kind == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
                image.load()
                self.images.append(image.size)
        if given.get("role") == "img":
            assert given["aria-label"]
            self.labels.append(given["aria-label"])
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _SHAPES

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)
