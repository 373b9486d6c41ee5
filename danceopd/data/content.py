"""What a row holds, told by keys of its images: enough to compare rows, and to find what was made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from danceopd.data.keys import content_key
from danceopd.families.base import Example, Examples


@dataclass(frozen=True, slots=True)
class ImageContent:
    """An image by its content.

    Attributes:
        key: of the encoded bytes where there are any, else of the pixels: 64 hexadecimal digits.
        height: in pixels, as it is shown.
        width: as `height`.
    """

    key: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class RowContent:
    """A row as `danceopd.families.Example` has it, its images by their content."""

    prompt: str
    sources: tuple[ImageContent, ...] = ()
    target: ImageContent | None = None
    size: tuple[int, int] | None = None
    mask: ImageContent | None = None


@runtime_checkable
class KnowsContent(Protocol):
    """Rows that tell their content without decoding an image."""

    def content(self, row: int, /) -> RowContent:
        """What the row holds."""
        ...


@runtime_checkable
class KnowsFingerprint(Protocol):
    """Rows that have a name for all of their content, for they are too many to look at."""

    def fingerprint(self) -> str:
        """Changes when any row does."""
        ...


def row_content(examples: Examples, row: int) -> RowContent:
    """What a row holds, in hardly any time where the rows know it (`Rows` do, once a row was read)."""
    return examples.content(row) if isinstance(examples, KnowsContent) else content_of(examples[row])


def content_of(example: Example) -> RowContent:
    """What an example holds, its images by their pixels."""
    return RowContent(
        example.prompt,
        tuple(map(_of_pixels, example.sources)),
        None if example.target is None else _of_pixels(example.target),
        example.size,
        None if example.mask is None else _of_pixels(example.mask),
    )


def rows_fingerprint(examples: Examples) -> str:
    """A key of the rows of a route: other prompts, images, masks, sizes or another order have another one.

    Rows of files that were checked are not read again, and endless ones have a key of their own. Encoded
    images count by their bytes, so one that is saved anew is another one; their paths do not count.

    Raises:
        DataError: a row of a file cannot be read.
    """
    if isinstance(examples, KnowsFingerprint):
        return examples.fingerprint()
    return content_key("rows", [_parts(row_content(examples, row)) for row in range(len(examples))])


def _of_pixels(image: Tensor) -> ImageContent:
    *_, height, width = image.shape
    return ImageContent(content_key(image), height, width)


def _parts(content: RowContent) -> list[object]:
    """A row as `content_key` takes it; meta is for scorers and changes nothing that is trained on."""
    target, mask = (image and image.key for image in (content.target, content.mask))
    return [content.prompt, [source.key for source in content.sources], target, mask, content.size]
