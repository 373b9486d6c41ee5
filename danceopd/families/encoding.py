"""Prompts and source images through a checkpoint's encoders: once, into a cache, and then without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from danceopd.data import RowContent, TensorCache, content_key, row_content, weights_fingerprint
from danceopd.families.base import Example, Examples
from danceopd.families.checkpoint import ModelCheckpoint
from danceopd.families.conditions import Encoded, PromptRow
from danceopd.families.conventions import Conventions
from danceopd.families.encoded import MASK, TARGET, EncodedRows, Entry
from danceopd.families.fitting import Fit, cell_shares, cover, fitted, source_fit

_FORMAT: Final = 2  # of what is cached; raised when an adapter encodes differently than before


class Encoder:
    """The encoders and the decoder of a checkpoint, in memory only while they are needed.

    Args:
        checkpoint: what to load from.
        conventions: its family's conventions.
        dtype: of the encoders.
        device: where they run.
        sizes: what source images are brought to, the one of the nearest aspect ratio.
    """

    def __init__(
        self,
        checkpoint: ModelCheckpoint,
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
        self._check_number(len(example.sources))
        sources = [fitted(source, self._fit(*source.shape[1:])) for source in example.sources]
        return PromptRow(
            self._prompt(example.prompt, sources),
            self._prompt(self._conventions.negative_prompt, sources),
            tuple(self._source(source) for source in sources),
        )

    def prepare(
        self,
        examples: Examples,
        folder: Path,
        size: Callable[[RowContent], tuple[int, int]],
        *,
        targets: bool = False,
        masks: bool = False,
    ) -> EncodedRows:
        """All rows of a route, each encoded once in the life of `folder`; only for that its images are read.

        Args:
            examples: the rows.
            folder: of the cache.
            size: height and width in pixels of the image that a row asks for.
            targets: encode the rows' targets too, where they have one.
            masks: bring the rows' masks to the cells of their latents too.
        """
        cache = _Filling(TensorCache(folder))
        entries, shapes = [], []
        for number in track(
            range(len(examples)),
            "encoding",
            console=Console(stderr=True),
            transient=True,
            disable=not _is_shown(),
        ):
            content = row_content(examples, number)
            self._check_number(len(content.sources))
            fits = [self._fit(source.height, source.width) for source in content.sources]
            row, wanted = _Row(examples, number, content, fits), size(content)
            shapes.append(self._conventions.shape(*wanted))
            entries.append(
                Entry(
                    *self._prompts(row, cache),  # first: with the text encoders comes the VAE as well
                    sources=self._sources(row, cache),
                    target=self._target(row, cache, wanted) if targets else None,
                    mask=self._mask(row, cache, wanted) if masks else None,
                )
            )
        return EncodedRows(cache.cache, entries, shapes, self._device, has_masks=masks)

    def check_sources(self, example: Example) -> None:
        """Raise ValueError where `encode` would for an example's sources; no pixel is touched."""
        self._check_number(len(example.sources))
        for source in example.sources:
            self._fit(*source.shape[1:])

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

    def _prompts(self, row: _Row, cache: _Filling) -> tuple[str, str]:
        """Keys of the prompt and the negative one, put into the cache where they are not."""
        seen = self._conventions.read_with_prompt(self._source_keys(row))

        def keep(words: str) -> str:
            key = content_key(self._identity(), "prompt", words, *seen)
            return cache.keep(key, lambda: self._prompt(words, row.sources))

        return keep(row.content.prompt), keep(self._conventions.negative_prompt)

    def _sources(self, row: _Row, cache: _Filling) -> tuple[str, ...]:
        keys = self._source_keys(row)
        for number, key in enumerate(keys):
            cache.keep(key, partial(lambda place: self._source(row.sources[place]), number))
        return keys

    def _source_keys(self, row: _Row) -> tuple[str, ...]:
        pairs = zip(row.content.sources, row.fits, strict=True)
        return tuple(content_key(self._identity(), "source", source.key, *fit) for source, fit in pairs)

    def _target(self, row: _Row, cache: _Filling, size: tuple[int, int]) -> str | None:
        target = row.content.target
        if target is None:
            return None
        fit = cover(target.height, target.width, size)
        key = content_key(self._identity(), "target", target.key, *fit)
        return cache.keep(key, lambda: self._latent(fitted(row.target, fit)))

    def _mask(self, row: _Row, cache: _Filling, size: tuple[int, int]) -> str | None:
        mask = row.content.mask
        if mask is None:
            return None
        fit, cells = cover(mask.height, mask.width, size), self._conventions.shape(*size)[-2:]
        key = content_key("mask", _FORMAT, mask.key, *fit, cells)
        return cache.keep(key, lambda: {MASK: cell_shares(row.mask, fit, cells)})

    def _fit(self, height: int, width: int) -> Fit:
        about = self._conventions
        return source_fit(height, width, self._sizes, about.multiple, scales_up=about.scales_up)

    def _check_number(self, sources: int) -> None:
        if self._conventions.needs_source and not sources:
            raise ValueError(
                f"sources must hold one image for {self._conventions.pipeline_name}, but it is empty: add "
                "one, or take a checkpoint that also makes images from prompts alone."
            )
        most = self._conventions.max_sources
        if sources > most:
            takes = f"takes {most} at most" if most else "has no editing"
            raise ValueError(
                f"sources holds {sources} images, but {self._conventions.name} {takes}: drop some."
            )

    @torch.no_grad()
    def _prompt(self, prompt: str, sources: Sequence[Tensor]) -> Encoded:
        return self._conventions.encode_prompt(self._loaded(encode=True), prompt, sources)

    @torch.no_grad()
    def _source(self, source: Tensor) -> Encoded:
        return self._conventions.encode_source(self._loaded(encode=False), source)

    @torch.no_grad()
    def _latent(self, image: Tensor) -> Encoded:
        return {TARGET: self._conventions.encode_target(self._loaded(encode=False), image)}

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
            # These do the encoding: templates, padding and preprocessing are theirs.
            versions = [version(package) for package in ("diffusers", "transformers")]
            self._fingerprint = content_key(*about, *versions, *parts)
        return self._fingerprint


class _Filling:
    """A cache that is being filled: what is there already is not made again, nor looked at twice."""

    def __init__(self, cache: TensorCache) -> None:
        self.cache = cache
        self._there: set[str] = set()

    def keep(self, key: str, encode: Callable[[], Encoded]) -> str:
        """`key`, with what `encode` makes under it if there is nothing yet."""
        if key not in self._there and not self.cache.has(key):
            self.cache.put(key, {name: tensor.cpu() for name, tensor in encode().items()})
        self._there.add(key)
        return key


class _Row:
    """A row by its content; its images are decoded when one of them is to be encoded, and once."""

    def __init__(self, examples: Examples, number: int, content: RowContent, fits: Sequence[Fit]) -> None:
        self._examples = examples
        self._number = number
        self.content = content
        self.fits = fits

    @cached_property
    def _example(self) -> Example:
        return self._examples[self._number]

    @cached_property
    def sources(self) -> list[Tensor]:
        return [fitted(source, fit) for source, fit in zip(self._example.sources, self.fits, strict=True)]

    @property
    def target(self) -> Tensor:
        assert self._example.target is not None
        return self._example.target

    @property
    def mask(self) -> Tensor:
        assert self._example.mask is not None
        return self._example.mask


def _fingerprint(component: Path) -> str:
    """Of a model its weights, of a tokenizer every file."""
    if any(component.glob("*.safetensors")):
        return weights_fingerprint(component)
    files = [file for file in sorted(component.iterdir()) if file.is_file()]
    return content_key(*(part for file in files for part in (file.name, file.read_bytes())))


def _is_shown() -> bool:
    return Console(stderr=True).is_terminal
