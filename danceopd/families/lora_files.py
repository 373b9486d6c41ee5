"""LoRA files of every common format, read whole or not at all.

diffusers, PEFT and single-file formats (kohya, ComfyUI, the model makers' own) name the same factors
differently. Factors whose stem is a layer of the model under any of the usual prefixes are taken as they are;
for the names of a model's original code diffusers' own conversion is asked. Nothing may be lost on the way,
since a key that is skipped, or an alpha, means a teacher that is partly the base model.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danceopd.families.checkpoint import is_repository
from danceopd.families.lora import Factors, Lora

ADAPTER_CONFIG: Final = "adapter_config.json"
_FILES: Final = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_NO_PLAIN_LORA: Final = ("dora_scale", "lora_magnitude_vector", "lokr_", "hada_", "oft_", "lora_embedding")
_PREFIXES: Final = (
    "base_model.model.",
    "transformer.",
    "diffusion_model.",
    "lora_unet_",
    "lora_transformer_",
    "",
)
_FACTOR: Final = re.compile(
    r"(?P<stem>.+?)\.(?:(?P<a>lora_A|lora_down|lora\.down)|lora_B|lora_up|lora\.up)(?:\.default)?\.weight"
)
_SAME: Final = 1e-3  # of one layer's energy


def read_lora(
    pipeline_class: Any, layers: Collection[str], path_or_repo: str, weight_name: str | None = None
) -> Lora:
    """The factors of an adapter, by the layers of the pipeline's transformer.

    Args:
        pipeline_class: diffusers' class of the base's pipeline; it knows the original names of its family.
        layers: names of the transformer's linear layers.
        path_or_repo: a safetensors file, a folder that holds one, or a repository of the Hugging Face Hub.
        weight_name: the file inside the folder or repository, where it holds several.

    Raises:
        ValueError: the file is not there, not whole safetensors, or holds anything but LoRA factors of the
            transformer; the message lists it.
    """
    path = find_lora(path_or_repo, weight_name)
    tensors, metadata = _read(path)
    config = path.with_name(ADAPTER_CONFIG)
    about = _read_config(config) if config.is_file() else _about(metadata, path)
    raw = _pairs(tensors, about, path)
    names = _layer_names(raw, layers)
    twice = sorted(str(name) for name, count in Counter(filter(None, names.values())).items() if count > 1)
    if twice:
        raise ValueError(f"'{path}' names {_some(twice)} twice, under two prefixes: keep one of each.")
    if all(name is not None for name in names.values()):
        return {str(names[stem]): factors for stem, factors in raw.items()}
    return _convert(pipeline_class, raw, layers, path)


def _pairs(tensors: Mapping[str, Tensor], about: Mapping[str, Any], path: Path) -> dict[str, Factors]:
    """Every tensor of a file as a factor of some stem; None is left over."""
    odd = sorted(name for name in tensors if any(mark in name for mark in _NO_PLAIN_LORA))
    if odd:
        raise ValueError(
            f"'{path}' is not a plain LoRA ({_some(odd)}): merge it into a checkpoint and give that as the "
            "teacher's checkpoint."
        )
    down: dict[str, Tensor] = {}
    up: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    unused: list[str] = []
    for name, tensor in tensors.items():
        if match := _FACTOR.fullmatch(name):
            part = down if match["a"] else up
            if match["stem"] in part:
                raise ValueError(
                    f"'{path}' holds two factors for '{match['stem']}' ({name}): keep one of them."
                )
            part[match["stem"]] = tensor
        elif name.endswith(".alpha"):
            alphas[name.removesuffix(".alpha")] = float(tensor)
        else:
            unused.append(name)
    unused += [f"{stem}.alpha" for stem in alphas.keys() - down.keys() - up.keys()]
    if not tensors:
        raise ValueError(f"'{path}' holds no tensors: give a LoRA's safetensors file.")
    if unused:
        raise ValueError(
            f"'{path}' holds {len(unused)} keys that are no LoRA factors ({_some(unused)}): a teacher must "
            "be whole, so give a file of LoRA factors alone."
        )
    if bad := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise ValueError(f"'{path}' holds values that are not finite at {_some(bad)}: export it again.")
    broken = sorted(
        stem
        for stem in down.keys() | up.keys()
        if stem not in down
        or stem not in up
        or down[stem].ndim != 2
        or up[stem].ndim != 2
        or up[stem].shape[1] != down[stem].shape[0]
    )
    if broken:
        raise ValueError(f"'{path}' has no two factors that fit at {_some(broken)}: fetch it again.")
    return {
        stem: Factors(a, up[stem], _scale(about, stem, a.shape[0], alphas.get(stem)))
        for stem, a in down.items()
    }


def _layer_names(raw: Mapping[str, Factors], layers: Collection[str]) -> dict[str, str | None]:
    """The layer that each stem names, None where it names none."""
    known = {layer: layer for layer in layers} | {layer.replace(".", "_"): layer for layer in layers}
    return {
        stem: next(
            (
                known[stem.removeprefix(prefix)]
                for prefix in _PREFIXES
                if stem.startswith(prefix) and stem.removeprefix(prefix) in known
            ),
            None,
        )
        for stem in raw
    }


def _convert(pipeline_class: Any, raw: Mapping[str, Factors], layers: Collection[str], path: Path) -> Lora:
    """What diffusers makes of original names, in the first of three spellings from which nothing is lost.

    That is tried on factors of equal energy first, among which a skipped layer or alpha shows.
    """
    probe = {stem: _of_unit_energy(factors) for stem, factors in raw.items()}
    why = "their names are not known"
    for spell in (_as_down_up, _as_a_b, _as_kohya):
        try:
            tried = _pairs(_converted(pipeline_class, spell(probe)), {}, path)
            lora = _pairs(_converted(pipeline_class, spell(raw)), {}, path)
        except Exception as error:  # conversions raise whatever a missing key makes of their code
            why = " ".join(f"{type(error).__name__} {error}".split())[:200].rstrip(".") or why
            continue
        names = _layer_names(lora, layers)
        if None in names.values():
            why = "diffusers knows no layer for some of them"
        elif abs(sum(map(_energy, tried.values())) - len(raw)) > _SAME:
            why = "diffusers' conversion skips a part of the file"
        else:
            return {str(names[stem]): factors for stem, factors in lora.items()}
    strange = [stem for stem, name in _layer_names(raw, layers).items() if name is None]
    raise ValueError(
        f"'{path}' holds {len(strange)} factors that belong to no layer of the transformer "
        f"({_some(strange)}; {why}): a teacher must be whole, so give a LoRA that was trained for this model."
    )


def _converted(pipeline_class: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    convert = pipeline_class.lora_state_dict
    apart = "return_alphas" in inspect.signature(convert).parameters
    with _quiet():
        result = convert(tensors, **({"return_alphas": True} if apart else {}))
    state, alphas = result if apart else (result, {})
    return {**state, **(alphas or {})}


def _as_down_up(raw: Mapping[str, Factors]) -> dict[str, Tensor]:
    spelled = {}
    for stem, factors in raw.items():
        spelled[f"{stem}.lora_down.weight"] = factors.a
        spelled[f"{stem}.lora_up.weight"] = factors.b
        spelled[f"{stem}.alpha"] = torch.tensor(factors.scale * factors.rank)
    return spelled


def _as_a_b(raw: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Without alpha, which some conversions refuse: the scale goes into B."""
    spelled = {}
    for stem, factors in raw.items():
        spelled[f"{stem}.lora_A.weight"] = factors.a
        spelled[f"{stem}.lora_B.weight"] = factors.b * factors.scale
    return spelled


def _as_kohya(raw: Mapping[str, Factors]) -> dict[str, Tensor]:
    def plain(stem: str) -> str:
        for prefix in _PREFIXES:
            if prefix and stem.startswith(prefix):
                return stem.removeprefix(prefix)
        return stem

    return _as_down_up(
        {f"lora_unet_{plain(stem).replace('.', '_')}": factors for stem, factors in raw.items()}
    )


def _of_unit_energy(factors: Factors) -> Factors:
    a, b = torch.ones_like(factors.a, dtype=torch.float64), torch.ones_like(factors.b, dtype=torch.float64)
    whole = Factors(a, b, factors.scale)
    return Factors(a, b / _energy(whole) ** 0.5, factors.scale) if factors.scale else whole


def _energy(part: Factors) -> float:
    """``|scale B A|^2``, whose sum over a LoRA stays the same however layers are named, fused or split."""
    a, b = part.a.double(), part.b.double()
    return part.scale**2 * float(((a @ a.T) * (b.T @ b)).sum())


def find_lora(path_or_repo: str, weight_name: str | None = None) -> Path:
    """The safetensors file of an adapter, for what `read_lora` takes; ADAPTER_CONFIG may lie beside it.

    Raises:
        ValueError: it is not there, or one of several.
    """
    path = Path(path_or_repo)
    if not path.exists():
        if not is_repository(path_or_repo) or path.suffix:
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
        return Path(snapshot_download(repo, allow_patterns=["*.safetensors", ADAPTER_CONFIG]))
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


def _scale(about: Mapping[str, Any], stem: str, rank: int, own: float | None) -> float:
    """Alpha / rank (or its root) as the file says; 1 where it says nothing, as in diffusers."""
    alpha = own
    if alpha is None:
        patterns: Mapping[str, Any] = about.get("alpha_pattern") or {}
        alpha = next((float(value) for key, value in patterns.items() if _matches(stem, key)), None)
    if alpha is None:
        alpha = about.get("lora_alpha")
    if alpha is None:
        return 1.0
    return float(alpha) / (rank**0.5 if about.get("use_rslora") else rank)


def _matches(stem: str, key: str) -> bool:
    """Whether a key of PEFT's patterns, a layer's name or an expression of one, means this stem."""
    for prefix in _PREFIXES:
        if stem.startswith(prefix) and re.fullmatch(
            rf"(.*\.)?({key.removeprefix('^')})$", stem.removeprefix(prefix)
        ):
            return True
    return False


def _about(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        return {key.removeprefix("transformer."): value for key, value in about.items()}
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


def _some(names: Collection[str]) -> str:
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
