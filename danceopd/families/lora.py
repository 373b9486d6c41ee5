"""LoRA on a shared model: the factors by layer, adding them through PEFT, and what several make together.

A layer's weight under an adapter is ``W + scale * B A``. Everything here works on layers by their full names
in the model; how files call them is the business of `danceopd.families.lora_files`.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_Value = TypeVar("_Value", int, float)


@dataclass(frozen=True)
class Factors:
    """One layer's share of an adapter.

    Attributes:
        a: [rank, in].
        b: [out, rank].
        scale: what multiplies their product; alpha / rank in most files.
    """

    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Number of rows of `a`."""
        return self.a.shape[0]


Lora = Mapping[str, Factors]
"""An adapter: the factors of each layer it changes, by the layer's full name."""


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers by full name, also those that carry adapters already."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    }


def choose_layers(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers that end with one of `targets`, in the model's order.

    Raises:
        ValueError: a target matches no layer.
    """
    layers = linear_layers(model)
    for target in targets:
        if not any(_ends(name, target) for name in layers):
            endings = sorted({_ending(name) for name in layers})
            raise ValueError(
                f"student.targets names '{target}', but no linear layer of the model ends so: choose from "
                f"{', '.join(endings)}."
            )
    return [name for name in layers if any(_ends(name, target) for target in targets)]


def add_adapter(
    model: nn.Module, adapter: str, ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> None:
    """Add an adapter that starts as the identity and is trainable.

    Every parameter that was there before stays as trainable, or as frozen, as it was, and the model's resting
    adapter stays the one it was.

    Args:
        model: the shared model.
        adapter: its name, new to the model.
        ranks: rank by full layer name.
        alphas: alpha by full layer name; the layer's scale is alpha / rank.
    """
    from peft import LoraConfig, inject_adapter_in_model

    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    before = {id(parameter) for parameter in model.parameters()}
    resting = [(layer, layer._active_adapter, layer._disable_adapters) for layer in _tuner_layers(model)]
    rank, rank_pattern = _as_patterns(ranks)
    alpha, alpha_pattern = _as_patterns(alphas)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides by it as by any number
        target_modules=_any_of(ranks),  # matched against full names
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
    )
    with warnings.catch_warnings():
        # Several adapters on one model are what we want.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        inject_adapter_in_model(config, model, adapter)
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trainable or id(parameter) not in before)
    for layer, active, disabled in resting:
        layer._active_adapter, layer._disable_adapters = active, disabled


def _as_patterns(values: Mapping[str, _Value]) -> tuple[_Value, dict[str, _Value]]:
    """The commonest of the layers' values, and an expression of the layers' names for each other one.

    PEFT tries every expression on every layer, so there are as few as there are values, not layers.
    """
    (usual, _), *others = Counter(values.values()).most_common()
    layers = {value: [layer for layer in values if values[layer] == value] for value, _ in others}
    return usual, {f"^({_any_of(named)})$": value for value, named in layers.items()}


def _any_of(layers: Iterable[str]) -> str:
    return "|".join(map(re.escape, layers))


def rest_on(model: nn.Module, adapter: str) -> None:
    """Let `adapter` be the one that runs outside of every field's call, as a recomputed block does."""
    for layer in _tuner_layers(model):
        layer._disable_adapters = adapter not in layer.lora_A
        if not layer._disable_adapters:
            layer._active_adapter = [adapter]


def load_adapter(
    model: nn.Module, adapter: str, lora: Lora, *, scale: float = 1.0, frozen: bool = True
) -> None:
    """Add an adapter with these factors, its strength multiplied by `scale`.

    Raises:
        ValueError: a layer is not in the model, or has another shape; the model is then as it was.
    """
    check_fits(model, lora)
    ranks = {layer: factors.rank for layer, factors in lora.items()}
    alphas = {layer: scale * factors.scale * factors.rank for layer, factors in lora.items()}
    add_adapter(model, adapter, ranks, alphas)
    set_factors(model, adapter, lora)
    for name, parameter in model.named_parameters():
        if is_factor(name, adapter):
            parameter.requires_grad_(not frozen)


def check_fits(model: nn.Module, lora: Lora) -> None:
    """Raise ValueError, naming the layers, unless all of the adapter fits the model."""
    layers = linear_layers(model)
    strange = [layer for layer in lora if layer not in layers]
    if strange:
        raise ValueError(f"it changes {_listed(strange)}, which the model does not have as linear layers")
    unfit = [
        layer
        for layer, factors in lora.items()
        if factors.a.shape != (factors.rank, layers[layer].in_features)
        or factors.b.shape != (layers[layer].out_features, factors.rank)
    ]
    if unfit:
        raise ValueError(f"its factors have other shapes than the model at {_listed(unfit)}")


@torch.no_grad()
def set_factors(model: nn.Module, adapter: str, lora: Lora) -> None:
    """Overwrite the adapter's factors in the layers that `lora` names; scales stay as they are."""
    for name, parameter in model.named_parameters():
        if is_factor(name, adapter):
            layer, _, part = name.partition(".lora_")
            if layer in lora:
                parameter.copy_(lora[layer].a if part.startswith("A") else lora[layer].b)


def is_factor(parameter: str, adapter: str) -> bool:
    """Whether a parameter's name in the model is that of one of the adapter's factors."""
    return ".lora_" in parameter and f".{adapter}." in parameter


def combine(parts: Sequence[tuple[Lora, float]], layer: str, rank: int, scale: float) -> Factors | None:
    """``sum_k factor_k * scale_k B_k A_k`` of one layer as factors of rank `rank` and scale `scale`.

    Exact where the ranks add up to `rank` at most; beyond, the best approximation of that rank. A single
    adapter of this very rank and scale is returned as it is, bit for bit.

    Returns:
        fp32 factors whose unused rank is zeros in `a` and in `b`, or None when no adapter changes the layer.
    """
    here = [(lora[layer], factor) for lora, factor in parts if layer in lora and factor != 0.0]
    if not here:
        return None
    if len(here) == 1 and here[0][0].rank == rank and here[0][0].scale * here[0][1] == scale:
        return here[0][0]
    a = torch.cat([part.a.float() for part, _ in here])
    b = torch.cat([part.b.float() * (factor * part.scale / scale) for part, factor in here], dim=1)
    if a.shape[0] > rank:
        a, b = _truncate(a, b, rank)
    missing = rank - a.shape[0]
    return Factors(nn.functional.pad(a, (0, 0, 0, missing)), nn.functional.pad(b, (0, missing)), scale)


def _truncate(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    # The product is out x in and large; its singular vectors lie in the spans of b and a, which are thin.
    qb, rb = torch.linalg.qr(b.double())
    qa, ra = torch.linalg.qr(a.double().T)
    u, s, vh = torch.linalg.svd(rb @ ra.T)
    root = s[:rank].sqrt()
    return (root[:, None] * (vh[:rank] @ qa.T)).float(), ((qb @ u[:, :rank]) * root).float()


def add_to_weights(weights: Mapping[str, Tensor], parts: Iterable[tuple[Lora, float]]) -> dict[str, Tensor]:
    """Full weights with ``sum_k factor_k * scale_k B_k A_k`` added, in fp32 and rounded once."""
    total: dict[str, Tensor] = {}
    for lora, factor in parts:
        for layer, part in lora.items():
            delta = (factor * part.scale) * (part.b.float() @ part.a.float())
            name = f"{layer}.weight"
            total[name] = total[name] + delta if name in total else weights[name].float() + delta
    return {**weights, **{name: value.to(weights[name].dtype) for name, value in total.items()}}


def _tuner_layers(model: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _ends(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def _ending(layer: str) -> str:
    *_, parent, last = layer.split(".") if "." in layer else ("", layer)
    return f"{parent}.{last}" if last.isdigit() else last


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
