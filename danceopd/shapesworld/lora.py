"""LoRA on the tiny transformer, through PEFT: adding, reading, merging and writing adapters by layer name.

In a file the factors of a layer are `transformer.LAYER.lora_A.weight` [rank, in] and
`transformer.LAYER.lora_B.weight` [out, rank], and `lora_adapter_metadata` holds rank and alpha: what
diffusers' `load_lora_adapter` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from danceopd.families.lora import add_adapter, choose_layers, is_factor
from danceopd.families.lora import linear_layers as all_linear_layers

from .weights import Weights

PREFIX = "transformer."
ABOUT = "lora_adapter_metadata"


@dataclass(frozen=True)
class Lora:
    """The factors of one adapter: the layer's weight becomes W + alpha / rank * B A.

    Attributes:
        factors: layer name -> (A [rank, in], B [out, rank]).
    """

    rank: int
    alpha: float
    factors: dict[str, tuple[Tensor, Tensor]]


def linear_layers(model: nn.Module, targets: Sequence[str] | None = None) -> dict[str, nn.Linear]:
    """The linear layers whose full name is or ends with one of `targets`, by full name; all of them for None.

    FLUX.2's single blocks fuse q, k, v and the MLP into one layer of their own name, which is why the default
    is everything and not the usual list of attention projections.

    Raises:
        ValueError: a target matches no layer.
    """
    layers = all_linear_layers(model)
    return layers if targets is None else {name: layers[name] for name in choose_layers(model, targets)}


def add_lora(model: nn.Module, adapter: str, *, rank: int, alpha: float, layers: Sequence[str]) -> None:
    """Add a LoRA of one rank and alpha to the named layers; see `danceopd.families.lora.add_adapter`."""
    add_adapter(model, adapter, dict.fromkeys(layers, rank), dict.fromkeys(layers, alpha))


def read_lora(weights: Weights, model: nn.Module) -> Lora:
    """The LoRA of a file, checked against the model that it is for.

    Alpha is the rank where the file does not say, as in diffusers.

    Raises:
        ValueError: the file is no LoRA, is not whole, or is of another model.
    """
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    unused = dict(weights.tensors)
    rank = next((tensor.shape[0] for name, tensor in unused.items() if ".lora_A." in name), 0)
    for layer, linear in linear_layers(model).items():
        a, b = (unused.pop(name, None) for name in _factor_names(layer))
        if a is None and b is None:
            continue
        shapes = tuple(None if factor is None else tuple(factor.shape) for factor in (a, b))
        if a is None or b is None or shapes != ((rank, linear.in_features), (linear.out_features, rank)):
            raise _unfit(weights, f"the factors of layer {layer!r} have the shapes {shapes}")
        factors[layer] = (a, b)
    if unused:
        raise _unfit(weights, f"the model has no place for {min(unused)!r}")
    if not factors:
        raise _unfit(weights, "it has no factors")
    return Lora(rank, _read_alpha(weights, rank), factors)


def load_lora(model: nn.Module, adapter: str, lora: Lora, *, scale: float) -> None:
    """Add a LoRA to the model, frozen, its strength multiplied by `scale`."""
    add_lora(model, adapter, rank=lora.rank, alpha=lora.alpha * scale, layers=list(lora.factors))
    tensors = factor_tensors(lora.factors)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_factor(name, adapter):
                parameter.copy_(tensors[file_name(name, adapter)])
                parameter.requires_grad_(False)


def merge_lora(weights: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """Full weights with the LoRA folded in."""
    merged = dict(weights)
    for layer, (a, b) in lora.factors.items():
        merged[f"{layer}.weight"] = weights[f"{layer}.weight"] + lora.alpha / lora.rank * (b @ a)
    return merged


def factor_tensors(factors: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The factors by their names in a file."""
    return {
        name: factor
        for layer, pair in factors.items()
        for name, factor in zip(_factor_names(layer), pair, strict=True)
    }


def file_name(parameter: str, adapter: str) -> str:
    """Name in a PEFT-injected model -> name in a file."""
    return PREFIX + parameter.replace(f".{adapter}.", ".")


def lora_metadata(rank: int, alpha: float, layers: Sequence[str]) -> dict[str, str]:
    """What a LoRA's file says about it, in the form that diffusers reads."""
    about = {"r": rank, "lora_alpha": alpha, "target_modules": list(layers)}
    return {ABOUT: json.dumps({PREFIX + key: value for key, value in about.items()})}


def _factor_names(layer: str) -> tuple[str, str]:
    return f"{PREFIX}{layer}.lora_A.weight", f"{PREFIX}{layer}.lora_B.weight"


def _read_alpha(weights: Weights, rank: int) -> float:
    try:
        about = json.loads(weights.metadata.get(ABOUT, "{}"))
        uneven = any(about.get(PREFIX + key) for key in ("alpha_pattern", "rank_pattern", "use_rslora"))
        alpha = float(about.get(f"{PREFIX}lora_alpha", rank))
    except (AttributeError, TypeError, ValueError) as error:
        raise _unfit(weights, f"its {ABOUT} cannot be read") from error
    if uneven:
        raise _unfit(weights, "its strength is not alpha / rank in every layer")
    return alpha


def _unfit(weights: Weights, reason: str) -> ValueError:
    return ValueError(f"{weights.path} is no LoRA of ShapesWorld's model ({reason}); give one that is.")
