"""A diffusers checkpoint: its index, the configs of its components, and the components themselves."""

from __future__ import annotations

import json
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from danceopd.families.bars import bars_if_watched

_INDEX = "model_index.json"


class ModelCheckpoint:
    """A folder in diffusers' layout, or a repository of the Hugging Face Hub that holds one.

    Opening it reads the index only. Weights are fetched and read when they are asked for, from safetensors
    alone: a pickle is never opened.

    Args:
        path_or_repo: the folder, or ``owner/name`` of a repository.

    Raises:
        ValueError: it is neither, or its index cannot be read.
    """

    def __init__(self, path_or_repo: str | Path) -> None:
        self.name = str(path_or_repo)
        self._local = Path(path_or_repo) if Path(path_or_repo).exists() else None
        if self._local is None and not is_repository(self.name):
            raise ValueError(
                f"family '{self.name}' is neither shapesworld, nor a folder that is here, nor a repository's "
                "owner/name: name one of these."
            )
        index = self._json(_INDEX)
        self.pipeline_name = str(index.get("_class_name"))
        self.index = index

    def config(self, component: str) -> dict[str, Any]:
        """The config of a component, such as ``transformer``; it has no weights in it.

        Raises:
            ValueError: the checkpoint has no such component, or the file cannot be read.
        """
        if component not in self.index:
            raise ValueError(f"'{self.name}' has no component '{component}': its {_INDEX} does not name it.")
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return self._json(f"{component}/{name}")

    @cached_property
    def folder(self) -> Path:
        """Where all files lie; fetches a repository first."""
        if self._local is not None:
            return self._local
        from diffusers import DiffusionPipeline

        return Path(DiffusionPipeline.download(self.name, use_safetensors=True))

    @property
    def pipeline_class(self) -> Any:
        """Diffusers' class of the whole pipeline."""
        import diffusers

        return getattr(diffusers, self.pipeline_name)

    def transformer(self, dtype: torch.dtype, path: Path | None = None) -> nn.Module:
        """A frozen transformer, on the CPU: the checkpoint's own, or that in the folder `path`.

        Raises:
            ValueError: its files are missing, damaged or of another model.
        """
        import diffusers

        kind = getattr(diffusers, self.index["transformer"][1])
        folder = self.folder / "transformer" if path is None else path
        model = _load_whole(kind, folder, dtype)
        return model.eval().requires_grad_(False)

    def outline(self) -> nn.Module:
        """A transformer whose parameters have shapes and no values; no weights are read.

        Raises:
            ValueError: its config cannot be read, or is of another model.
        """
        import diffusers

        kind = getattr(diffusers, self.index["transformer"][1])
        try:
            with torch.device("meta"):
                model: nn.Module = kind.from_config(self.config("transformer"))
        except (TypeError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise ValueError(
                f"the transformer's config of '{self.name}' makes no {kind.__name__} ({reason}): restore it."
            ) from error
        return model

    def encoder_bytes(self) -> int:
        """Size of the weights files of all components but the transformer; fetches a repository first."""
        others = [
            name for name, kind in self.index.items() if isinstance(kind, list) and name != "transformer"
        ]
        files = [file for name in others for file in (self.folder / name).glob("*.safetensors")]
        return sum(file.stat().st_size for file in files)

    def pipeline(self, dtype: torch.dtype, *, without: tuple[str, ...] = ("transformer",)) -> Any:
        """The pipeline with its encoders and its decoder, on the CPU, leaving out some components."""
        components: dict[str, Any] = {name: None for name in without if name in self.index}
        components |= {name: self._model(name, dtype) for name in self._models() if name not in without}
        try:
            pipe = _load(self.pipeline_class, self.folder, dtype, **components)
        except ValueError as error:
            if "processor" in self.index and find_spec("torchvision") is None:
                raise ImportError(
                    f"the processor of '{self.name}' needs a package that is not installed: pip install "
                    "torchvision.",
                    name="torchvision",
                ) from error
            raise
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _models(self) -> list[str]:
        """Names of the components that have weights, the transformer aside."""
        named = [name for name, kind in self.index.items() if isinstance(kind, list) and kind[0]]
        return [
            name
            for name in named
            if name != "transformer" and any((self.folder / name).glob("*.safetensors"))
        ]

    def _model(self, name: str, dtype: torch.dtype) -> nn.Module:
        import diffusers
        import transformers

        library, kind = self.index[name]
        libraries = {"diffusers": diffusers, "transformers": transformers}
        # An index comes with the weights, from anywhere: it shall not choose which modules are imported.
        if not hasattr(libraries.get(library), kind):
            raise ValueError(
                f"component '{name}' of '{self.name}' is a '{kind}' of '{library}', which is not here: use a "
                "checkpoint made of models of diffusers and transformers, or newer versions of these."
            )
        return _load_whole(getattr(libraries[library], kind), self.folder / name, dtype)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(self._file(name).read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it holds no mapping")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise ValueError(
                f"'{self.name}' is no diffusers checkpoint that can be read ({name}: {reason}): give a "
                f"folder or repository with a {_INDEX}."
            ) from None
        return content

    def _file(self, name: str) -> Path:
        if self._local is not None:
            return self._local / name
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.name, name))


def is_repository(name: str) -> bool:
    """Whether a text has the form of a repository's name, owner/name."""
    owner, slash, repository = name.partition("/")
    return bool(slash and owner and repository) and "/" not in repository and not name.startswith((".", "~"))


def _load_whole(kind: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    model, info = _load(kind, folder, dtype, output_loading_info=True)
    # What a file lacks is otherwise filled with random numbers, with a line in the log.
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"'{folder}' lacks {len(missing)} tensors of {kind.__name__} (first '{missing[0]}'): restore its "
            "files."
        )
    return cast(nn.Module, model)


def _load(kind: Any, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    from safetensors import SafetensorError

    try:
        with bars_if_watched(kind.__module__.partition(".")[0]):
            return kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(
            f"'{folder}' cannot be loaded as {kind.__name__} ({reason}): restore its files, in safetensors."
        ) from error
