"""Images as unit vectors, by models in folders of the user."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from PIL import Image
from torch import Tensor

from danceopd.evaluation.metrics.images import read_pixels

_KEPT: Final = 256  # vectors: sources and captions come back for each contender


class Features(Protocol):
    """Sees what images show."""

    def embed(self, image: Path) -> Tensor:
        """float32 [D] on the CPU, of length 1.

        Raises:
            ValueError: the image cannot be read.
        """
        ...


class Memory:
    """The vectors that were asked for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The vector of ``key``, made when it is not at hand."""
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def version_of(image: Path) -> Hashable:
    """Names a file and the state it is in.

    Raises:
        ValueError: it is not there.
    """
    try:
        state = image.stat()
    except OSError as error:
        raise ValueError(f"image '{image}' cannot be read ({error.strerror}): make it anew.") from None
    return str(image), state.st_mtime_ns, state.st_size


def open_picture(image: Path) -> Image.Image:
    """An image in RGB.

    Raises:
        ValueError: it cannot be read.
    """
    return Image.fromarray(read_pixels(image))


def unit(vector: Tensor) -> Tensor:
    """float32 on the CPU, of length 1 in the last dimension."""
    return torch.nn.functional.normalize(vector.float(), dim=-1).cpu()


def load_model(folder: Path, kinds: tuple[str, ...], what: str, example: str, device: str) -> tuple[Any, Any]:
    """A model of transformers and its image processor, from files alone.

    Args:
        folder: as `save_pretrained` writes it.
        kinds: the model types that will do.
        what: names such a model in errors.
        example: a model that is known to work.
        device: where it shall run.

    Raises:
        ValueError: the folder holds no such model, or not all of its weights.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    cure = f"point at a folder that holds one, such as a copy of {example}."
    if not (folder / "config.json").is_file():  # else transformers takes it for a name on its hub
        raise ValueError(f"'{folder}' has no config.json, so it holds no {what} model: {cure}")
    try:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind not in kinds:
            raise ValueError(f"'{folder}' holds a model of type '{kind}' and no {what} model: {cure}")
        # Pillow resizes alike on every machine, with torchvision there or not.
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        model, about = AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except OSError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"the {what} model in '{folder}' cannot be read ({reason}): {cure}") from None
    # A pooler is not part of what DINO's authors publish, and not used.
    missing = sorted(name for name in about["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(f"the {what} model in '{folder}' lacks weights such as {missing[0]}: {cure}")
    return model.to(device).eval().requires_grad_(False), processor
