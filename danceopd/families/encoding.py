"""Prompts and source images through a checkpoint's encoders: once, into a cache, and then without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from danceopd.data import TensorCache, content_key, nearest_bucket, weights_fingerprint
from danceopd.families.base import Example, Examples
from danceopd.families.checkpoint import Checkpoint
from danceopd.families.conditions import Encoded, PromptRow, RowsCondition
from danceopd.families.conventions import Conventions

_KEPT = 0.75  # of a source's area, where it is cropped to a size that it can share
_FORMAT = 1  # of what is cached; raised when an adapter encodes differently than before


class Encoder:
    """The encoders and the decoder of a checkpoint, in memory only while they are needed.

    Args:
        checkpoint: what to load from.
        conventions: its family's conventions.
        dtype: of the encoders.
        device: where they run.
        sizes: what larger source images are brought to, the one of the nearest aspect ratio.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        conventions: Conventions,
        dtype: torch.dtype,
        device: torch.device,
        *,
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        self._checkpoint = checkpoint
        self._conventions = conventions
        self._dtype = dtype
        self._device = device
        self._sizes = sizes
        self._pipe: Any = None
        self._can_encode = False
        self._fingerprint = ""

    def encode(self, example: Example) -> PromptRow:
        """One row, on the encoders' device."""
        sources = self._sources(example)
        return PromptRow(
            self._prompt(example.prompt, sources),
            self._prompt(self._conventions.negative_prompt, sources),
            tuple(self._source(source) for source in sources),
        )

    def prepare(
        self, examples: Examples, folder: Path, shape: Callable[[Example], tuple[int, ...]]
    ) -> EncodedRows:
        """All rows of a route, each encoded once in the life of `folder`."""
        cache = TensorCache(folder)
        there: set[str] = set()
        entries, shapes = [], []
        positions = track(
            range(len(examples)),
            "encoding",
            console=Console(stderr=True),
            transient=True,
            disable=not _is_shown(),
        )
        for position in positions:
            example = examples[position]
            entries.append(self._cached(example, cache, there))
            shapes.append(shape(example))
        return EncodedRows(cache, entries, shapes, self._device)

    def check_sources(self, example: Example) -> None:
        """Raise ValueError where `encode` would for an example's sources; no pixel is touched."""
        self._check_number(example)
        for source in example.sources:
            _, height, width = source.shape
            fitted_size(height, width, self._sizes, self._conventions.multiple)

    @torch.no_grad()
    def decode(self, sample: Tensor) -> Tensor:
        """Clean latents as uint8 [B, 3, H, W]."""
        # One by one: a VAE's activations are far larger than its image.
        images = [self._conventions.decode(self._loaded(encode=False), latent[None]) for latent in sample]
        return (torch.cat(images).float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)

    def release(self) -> None:
        """Drop the encoders from memory; they come back when they are needed."""
        self._pipe, self._can_encode = None, False
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _cached(self, example: Example, cache: TensorCache, there: set[str]) -> _Entry:
        """The keys of a row, put into the cache where they are not; `there` are those that need no look."""
        sources = self._sources(example)
        seen = self._conventions.read_with_prompt(sources)

        def prompt_key(prompt: str) -> str:
            return content_key(self._identity(), "prompt", prompt, *seen)

        def keep(key: str, encode: Callable[[], Encoded]) -> str:
            if key not in there and cache.get(key) is None:
                cache.put(key, {name: tensor.cpu() for name, tensor in encode().items()})
            there.add(key)
            return key

        negative = self._conventions.negative_prompt
        return _Entry(
            keep(prompt_key(example.prompt), partial(self._prompt, example.prompt, sources)),
            keep(prompt_key(negative), partial(self._prompt, negative, sources)),
            tuple(
                keep(content_key(self._identity(), "source", source), partial(self._source, source))
                for source in sources
            ),
        )

    def _sources(self, example: Example) -> list[Tensor]:
        self._check_number(example)
        return [fit_source(source, self._sizes, self._conventions.multiple) for source in example.sources]

    def _check_number(self, example: Example) -> None:
        if self._conventions.needs_source and not example.sources:
            raise ValueError(
                f"sources must hold one image for {self._conventions.pipeline_name}, but it is empty: add "
                "one, or take a checkpoint that also makes images from prompts alone."
            )
        most = self._conventions.max_sources
        if len(example.sources) > most:
            takes = f"takes {most} at most" if most else "has no editing"
            raise ValueError(
                f"sources holds {len(example.sources)} images, but {self._conventions.name} {takes}: drop "
                "some."
            )

    @torch.no_grad()
    def _prompt(self, prompt: str, sources: Sequence[Tensor]) -> Encoded:
        return self._conventions.encode_prompt(self._loaded(encode=True), prompt, sources)

    @torch.no_grad()
    def _source(self, source: Tensor) -> Encoded:
        return self._conventions.encode_source(self._loaded(encode=False), source)

    def _loaded(self, *, encode: bool) -> Any:
        if self._pipe is None or (encode and not self._can_encode):
            names = [name for name, kind in self._checkpoint.index.items() if isinstance(kind, list)]
            heavy = [name for name in names if "encoder" in name]
            without = ("transformer",) if encode else ("transformer", *heavy)
            self._pipe = self._checkpoint.pipeline(self._dtype, without=without)
            for component in self._pipe.components.values():
                if isinstance(component, nn.Module):
                    nn.Module.to(component, self._device).requires_grad_(False)
            self._can_encode = encode
        return self._pipe

    def _identity(self) -> str:
        """Changes when anything does that an encoded tensor depends on."""
        if not self._fingerprint:
            parts = [
                _fingerprint(self._checkpoint.folder / name)
                for name, kind in sorted(self._checkpoint.index.items())
                if isinstance(kind, list) and kind[0] and name not in ("transformer", "scheduler")
            ]
            about = (self._checkpoint.pipeline_name, str(self._dtype), _FORMAT)
            self._fingerprint = content_key(*about, *parts)
        return self._fingerprint


@dataclass(frozen=True)
class _Entry:
    prompt: str
    negative: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class EncodedRows:
    """Encoded rows of a route, read from the cache as they are needed. See `danceopd.families.Prepared`."""

    cache: TensorCache
    entries: Sequence[_Entry]
    shapes: Sequence[tuple[int, ...]]
    device: torch.device
    _negatives: dict[str, Encoded] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, row: int, /) -> tuple[int, ...]:
        """Shape of the row's latent."""
        return self.shapes[row]

    def condition(self, rows: Sequence[int], /) -> RowsCondition:
        """The rows, on the family's device."""
        return RowsCondition(tuple(self._row(self.entries[row]) for row in rows)).to(self.device)

    def _row(self, entry: _Entry) -> PromptRow:
        if len(self._negatives) > 64:  # few where they are the empty prompt, one a row where they see images
            self._negatives.clear()
        if entry.negative not in self._negatives:
            self._negatives[entry.negative] = self._read(entry.negative)
        sources = tuple(map(self._read, entry.sources))
        return PromptRow(self._read(entry.prompt), self._negatives[entry.negative], sources)

    def _read(self, key: str) -> Encoded:
        tensors = self.cache.get(key)
        if tensors is None:
            raise OSError(
                f"the cache '{self.cache.folder}' lost or damaged an entry ({key}) since the run began: "
                "start the run again, and it is encoded anew."
            )
        return tensors


def fit_source(source: Tensor, sizes: Sequence[tuple[int, int]], multiple: int) -> Tensor:
    """A source image at one of `sizes`, or smaller; its sides are multiples of `multiple`.

    A larger one is scaled down to cover the size nearest to its aspect ratio, which is also that of the image
    to be made of it: rows of different photographs then share a forward. A smaller one keeps its size. What
    is left over is cropped around the center; nothing is ever scaled up.

    Args:
        source: uint8 [3, H, W].
        sizes: height and width in pixels, multiples of `multiple`; see `danceopd.data.buckets`.
        multiple: at least 1.

    Raises:
        ValueError: a side is shorter than `multiple`.
    """
    _, height, width = source.shape
    (scaled_height, scaled_width), (rows, columns) = fitted_size(height, width, sizes, multiple)
    if (scaled_height, scaled_width) != (height, width):
        image = Image.fromarray(np.ascontiguousarray(source.permute(1, 2, 0).numpy()))
        resized = np.asarray(image.resize((scaled_width, scaled_height), Image.Resampling.LANCZOS))
        source = torch.from_numpy(resized.copy()).permute(2, 0, 1)
    top, left = (scaled_height - rows) // 2, (scaled_width - columns) // 2
    return source[:, top : top + rows, left : left + columns].contiguous()


def fitted_size(
    height: int, width: int, sizes: Sequence[tuple[int, int]], multiple: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width to which `fit_source` scales an image, and those to which it then crops it.

    Raises:
        ValueError: as `fit_source`.
    """
    rows, columns = nearest_bucket(height, width, sizes)
    if height * width > rows * columns:
        factor = max(rows / height, columns / width)
        scaled = max(rows, round(height * factor)), max(columns, round(width * factor))
        if factor <= 1.0 and rows * columns >= _KEPT * scaled[0] * scaled[1]:
            return scaled, (rows, columns)
        # A strip, of which no size would leave enough: it keeps its aspect ratio.
        factor = min(1.0, (max(h * w for h, w in sizes) / (height * width)) ** 0.5)
        height, width = max(1, int(height * factor)), max(1, int(width * factor))
    rows, columns = height // multiple * multiple, width // multiple * multiple
    if not rows or not columns:
        raise ValueError(
            f"a source image of {height} x {width} pixels is too small: its sides must be {multiple} at "
            "least."
        )
    return (height, width), (rows, columns)


def _fingerprint(component: Path) -> str:
    """Of a model its weights, of a tokenizer every file."""
    if any(component.glob("*.safetensors")):
        return weights_fingerprint(component)
    files = [file for file in sorted(component.iterdir()) if file.is_file()]
    return content_key(*(part for file in files for part in (file.name, file.read_bytes())))


def _is_shown() -> bool:
    return Console(stderr=True).is_terminal
