"""Templates to pages, and pictures into them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
from PIL import Image

from danceopd.files import write_whole


def render_page(package: str, template: str, **values: Any) -> str:
    """The page that a template of `package` makes of `values`.

    It starts with ``{% extends "page/page.html.j2" %}``, which brings the style, and may import the macros of
    ``page/parts.html.j2``. Every value is escaped.
    """
    loader = PrefixLoader({"page": PackageLoader(__package__, ""), "own": PackageLoader(package, "")})
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(f"own/{template}").render(**values)


def write_page(path: Path, package: str, template: str, **values: Any) -> Path:
    """`render_page` into a file that is whole or as it was before.

    Raises:
        OSError: it cannot be written.
    """
    return write_whole(path, render_page(package, template, **values).encode())


def data_uri(picture: Path, *, widest: int | None = None) -> str:
    """A picture file as the address of an image inside a page, a PNG.

    Args:
        picture: the file.
        widest: pixels; a wider picture is made smaller.

    Raises:
        OSError: it cannot be read, or is no picture.
    """
    content = picture.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        if image.format != "PNG" or (widest is not None and image.width > widest):
            smaller, buffer = image.convert("RGB"), io.BytesIO()
            smaller.thumbnail((widest or image.width, image.height))
            smaller.save(buffer, format="PNG", optimize=True)
            content = buffer.getvalue()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
