"""LoRA files of every common format, read whole or not at all.

diffusers, PEFT and single-file formats (kohya, ComfyUI, the model makers' own) name the same factors
differently. diffusers converts what it knows; here nothing may be left over, since a key that matches no
layer means a teacher that is partly the base model.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from danceopd.families.lora import Factors, Lora

_PREFIX = "transformer."
_PEFT_PREFIX = "base_model.model."
_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_NO_PLAIN_LORA = ("dora_scale", "lora_magnitude_vector", "lokr_", "hada_", "oft_", "lora_embedding")


def read_lora(pipeline_class: Any, path_or_repo: str, weight_name: str | None = None) -> Lora:
    """The factors of an adapter, by the layers of the pipeline's transformer.

    Args:
        pipeline_class: diffusers' class of the base's pipeline; it knows the single-file formats of its
            family.
        path_or_repo: a safetensors file, a folder that holds one, or a repository of the Hugging Face Hub.
        weight_name: the file inside the folder or repository, where it holds several.

    Raises:
        ValueError: the file is not there, not whole safetensors, or holds anything but LoRA factors of the
            transformer; the message lists it.
    """
    path = _find(path_or_repo, weight_name)
    tensors, about = _read(path)
    if not tensors:
        raise ValueError(f"'{path}' holds no tensors: give a LoRA's safetensors file.")
    odd = sorted(name for name in tensors if any(mark in name for mark in _NO_PLAIN_LORA))
    if odd:
        raise ValueError(
            f"'{path}' is not a plain LoRA ({_some(odd)}): merge it into a checkpoint and give that as the "
            "teacher's checkpoint."
        )
    config = path.with_name("adapter_config.json")
    if all(name.startswith(_PEFT_PREFIX) for name in tensors) and config.is_file():
        names = {f"{_PREFIX}{name.removeprefix(_PEFT_PREFIX)}": tensor for name, tensor in tensors.items()}
        return _assemble(path, names, _read_config(config))
    converted, alphas = _convert(pipeline_class, tensors, path)
    return _assemble(path, converted | alphas, _about(about, path))


def _find(path_or_repo: str, weight_name: str | None) -> Path:
    path = Path(path_or_repo)
    if not path.exists():
        if path.is_absolute() or path_or_repo.count("/") != 1 or path.suffix:
            raise ValueError(
                f"the LoRA '{path_or_repo}' is not there: give a file, a folder or a repository."
            )
        path = _download(path_or_repo)
    if path.is_dir():
        path = path / weight_name if weight_name is not None else _only_file(path)
    elif weight_name not in (None, path.name):
        raise ValueError(
            f"weight_name is '{weight_name}', but lora names the file '{path}': drop one of them."
        )
    if not path.is_file():
        raise ValueError(f"'{path}' is not there: name another weight_name.")
    if path.suffix != ".safetensors":
        raise ValueError(
            f"'{path}' is no safetensors file, and a pickle may run any code: convert it to safetensors."
        )
    return path


def _only_file(folder: Path) -> Path:
    known = [folder / name for name in _FILES if (folder / name).is_file()]
    found = known or sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "no .safetensors file"
        raise ValueError(f"'{folder}' holds {names}: name the one to read as weight_name.")
    return found[0]


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(repo, allow_patterns=["*.safetensors", "adapter_config.json"]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(f"the LoRA '{repo}' is no path here and cannot be fetched ({reason}).") from None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"'{path}' cannot be read as safetensors ({reason}): fetch it again.") from None


def _convert(
    pipeline_class: Any, tensors: dict[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Diffusers' names, and the alphas that diffusers keeps apart for some families."""
    convert = pipeline_class.lora_state_dict
    apart = "return_alphas" in inspect.signature(convert).parameters
    try:
        with _quiet():
            # A copy: the conversions empty what they are given.
            result = convert(dict(tensors), **({"return_alphas": True} if apart else {}))
    except Exception as error:  # the conversions raise whatever a missing key makes of their code
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
        raise ValueError(
            f"'{path}' is no LoRA for {pipeline_class.__name__} that diffusers can convert ({reason}): give "
            "one that was trained for this family."
        ) from None
    state, alphas = result if apart else (result, {})
    return dict(state), dict(alphas or {})


def _assemble(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Lora:
    unused = dict(tensors)
    lora: dict[str, Factors] = {}
    for name in sorted(tensors):
        layer, found, _ = name.partition(".lora_A.weight")
        if not found:
            layer, found, _ = name.partition(".lora.down.weight")
        if not found:
            layer, found, _ = name.partition(".lora_down.weight")
        if not found:
            continue
        a = unused.pop(name)
        other = {".lora_A.weight": ".lora_B.weight"}.get(found, found.replace("down", "up"))
        b = unused.pop(f"{layer}{other}", None)
        if b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            shapes = [list(a.shape), None if b is None else list(b.shape)]
            raise ValueError(
                f"'{path}' is no whole LoRA: the factors of '{layer}' have the shapes "
                f"{shapes[0]} and {shapes[1]}; fetch it again."
            )
        own = unused.pop(f"{layer}.alpha", None)
        # Files written without the prefix are as whole as others; whether the layers fit is asked of the
        # model.
        layer = layer.removeprefix(_PEFT_PREFIX).removeprefix(_PREFIX)
        lora[layer] = Factors(a, b, _scale(about, layer, a.shape[0], None if own is None else float(own)))
    if unused:
        raise ValueError(
            f"'{path}' holds {len(unused)} keys that are no LoRA factors of the transformer "
            f"({_some(unused)}): a teacher must be whole, so give a file without them, or one of this family."
        )
    return lora


def _scale(about: Mapping[str, Any], layer: str, rank: int, own: float | None) -> float:
    """Alpha / rank (or its root) as the file says; 1 where it says nothing, as in diffusers."""
    alpha = own
    if alpha is None:
        alpha = next(
            (
                float(value)
                for key, value in (about.get("alpha_pattern") or {}).items()
                if _matches(layer, key)
            ),
            about.get("lora_alpha"),
        )
    if alpha is None:
        return 1.0
    return float(alpha) / (rank**0.5 if about.get("use_rslora") else rank)


def _matches(layer: str, key: str) -> bool:
    plain = key.removeprefix("^").removesuffix("$").replace("\\", "")
    return layer == plain or (not key.startswith("^") and layer.endswith(f".{plain}"))


def _about(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        return {key.removeprefix(_PREFIX): value for key, value in about.items()}
    except (ValueError, AttributeError):
        raise ValueError(
            f"'{path}' has lora_adapter_metadata that cannot be read: export it again."
        ) from None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"'{path}' cannot be read ({error}): fetch it again.") from None
    if config.get("use_dora") or config.get("bias", "none") != "none" or config.get("modules_to_save"):
        raise ValueError(f"'{path}' describes more than a plain LoRA: merge it and give it as a checkpoint.")
    return config


def _some(names: Mapping[str, Any] | list[str]) -> str:
    shown = ", ".join(sorted(names)[:8])
    return f"{shown}, ..." if len(names) > 8 else shown


@contextmanager
def _quiet() -> Iterator[None]:
    """Conversions log what they skip; here nothing may be skipped, and it is told as an error."""
    logger = logging.getLogger("diffusers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
