"""Several fields on one set of base weights: LoRA adapters of a shared model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from danceopd.flow.fields import Predict


@dataclass(frozen=True)
class AdapterField:
    """One adapter of a shared, PEFT-injected model, active for the length of a call only.

    K teachers that are LoRAs of one base cost one base and K adapters of memory. The call switches the
    adapter, runs, and puts back what was active, also when the model raises; no ``requires_grad`` flag is
    touched, so a student's adapter on the same model keeps training.

    Activation checkpointing runs blocks again during ``backward``, after the call: there, leave the student's
    adapter as the model's resting one, so that the second run uses the same weights.

    Args:
        model: a module that `peft.inject_adapter_in_model` (or diffusers' ``add_adapter``) has prepared.
        adapter: the adapter's name, or None for the plain base.
        predict: the family's way of calling the model.

    Raises:
        ValueError: if the model has no such adapter.
    """

    model: nn.Module
    adapter: str | None
    predict: Predict
    _layers: _AdapterLayers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_layers", _AdapterLayers(self.model))
        known = sorted({name for layer in self._layers.find() for name in _adapter_names(layer)})
        if self.adapter is not None and self.adapter not in known:
            raise ValueError(
                f"adapter must name an adapter of the model ({', '.join(known) or 'it has none'}), "
                f"but got {self.adapter!r}; inject it first or use None for the base."
            )

    def __call__(self, sample: Tensor, sigma: Tensor, condition: Any) -> Tensor:
        """Velocity [B, ...] of the model under its adapter; see `VelocityField`."""
        with _active(self._layers.find(), self.adapter):
            return self.predict(self.model, sample, sigma, condition)


class _AdapterLayers:
    """The layers of a model that hold adapters; kept until PEFT notes that an adapter has come or gone."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._adapters: tuple[Any, ...] = ()
        self._found: list[Any] = []

    def find(self) -> list[Any]:
        # A layer that is missed would mix another adapter into this field, so a model without PEFT's record
        # (a wrapper around one that has it, say) is walked at every call.
        adapters = tuple(getattr(self._model, "peft_config", {}).items())
        if not adapters or adapters != self._adapters:
            self._adapters, self._found = adapters, _tuner_layers(self._model)
        return self._found


@contextmanager
def _active(layers: Sequence[Any], adapter: str | None) -> Iterator[None]:
    resting = [(layer, layer._active_adapter, layer._disable_adapters) for layer in layers]
    merged = sorted({name for layer in layers for name in getattr(layer, "merged_adapters", ())})
    if merged:
        raise ValueError(
            f"model must keep its adapters apart, but {', '.join(merged)} is merged into the base weights; "
            "call unmerge_adapter() first."
        )
    try:
        for layer in layers:
            # PEFT's public switches (set_adapter, enable_adapters) flip requires_grad as well, which would
            # freeze the student and thaw the teachers; its forward looks at these two attributes alone.
            layer._disable_adapters = adapter is None
            if adapter is not None:
                layer._active_adapter = [adapter]
        yield
    finally:
        for layer, active, disabled in resting:
            layer._active_adapter, layer._disable_adapters = active, disabled


def _tuner_layers(model: nn.Module) -> list[Any]:
    # Imported here because peft pulls in transformers, which is slow, and full-weight runs need neither.
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return [module for module in model.modules() if isinstance(module, kinds)]


def _adapter_names(layer: Any) -> set[str]:
    # Dotted where a wrapper holds its adapters one level down.
    return {name for path in layer.adapter_layer_names for name in attrgetter(path)(layer)}
