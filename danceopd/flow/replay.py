"""Forwards without gradient that are recorded once and replayed: CUDA graphs.

A small model's forward takes longer to launch, kernel by kernel, than to compute. A graph launches all of it
at once, always on the same memory: inputs are copied to where the recorded ones lay, and outputs from there.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from danceopd.flow.adapters import AdapterField
from danceopd.flow.conditions import Condition
from danceopd.flow.fields import ModelField, Predict
from danceopd.flow.transfer import upload
from danceopd.settings import ConfigError

Record = Callable[[Callable[[], Any]], tuple[Any, Callable[[], object]]]
"""``record(work) -> (output, replay)``: does `work`, and again, into the same output, whenever asked."""

_WARM_UPS: Final = 3  # calls before recording: whatever is made once, compiled or cached is made there


def replayed(field: ModelField | AdapterField, record: Record | None = None) -> ModelField | AdapterField:
    """`field` with forwards without gradient recorded and replayed; those with gradient run as before."""
    return dataclasses.replace(field, predict=Replayed(field.predict, record or record_on_cuda))


@dataclass(frozen=True)
class Replayed:
    """A `danceopd.flow.Predict` whose calls of the model are replayed where no gradient is recorded.

    Batches are padded to the next power of two by repeating their last sample, so that slots that run empty
    at the end of a rollout need few recordings. There is one for each set of shapes; the least used is
    dropped where they become too many, and all of them when a parameter has moved in memory.

    A recording is of the model as it ran then: the adapter that was active, the branches that were taken. So
    a field has its own, and its model's weights change in place only.

    Args:
        predict: the family's way of calling the model.
        record: makes one; see `record_on_cuda`.
        most: recordings that are kept at once.
    """

    predict: Predict
    record: Record
    most: int = 32
    _recordings: OrderedDict[Hashable, _Recording] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    def __call__(self, model: nn.Module, sample: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Velocity [B, ...]; see `danceopd.flow.VelocityField`."""
        if torch.is_grad_enabled():
            return self.predict(model, sample, sigma, condition)
        count = len(sample)
        rows = torch.arange(1 << (count - 1).bit_length()).clamp(max=count - 1)
        if len(rows) > count:
            there = upload(rows, sample.device)
            sample, sigma, condition = sample[there], sigma[there], condition.take(rows)
        return self.predict(_ReplayedModel(model, self), sample, sigma, condition)[:count]

    def run(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What ``model(*args, **kwargs)`` returns, in memory of its own."""
        leaves, form = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        kinds = tuple(
            (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf for leaf in leaves
        )
        places = tuple(value.data_ptr() for value in model.parameters())
        key = (str(form), kinds)
        found = self._recordings.get(key)
        if found is None or found.places != places:
            if found is not None:
                self._recordings.clear()
            found = self._recordings[key] = _recorded(model, leaves, form, places, self.record)
            if len(self._recordings) > self.most:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(key)
        for place, tensor in zip(found.inputs, tensors, strict=True):
            place.copy_(tensor)
        found.replay()
        return tree_map_only(Tensor, torch.clone, found.output)


class _Recording(NamedTuple):
    """A forward that can be replayed.

    Attributes:
        inputs: its tensors, to be written to.
        output: of the model, overwritten by each replay.
        replay: does it again.
        places: where the model's parameters lay.
    """

    inputs: list[Tensor]
    output: Any
    replay: Callable[[], object]
    places: tuple[int, ...]


class _ReplayedModel:
    """What `Predict` calls in the model's place; all else is the model's."""

    def __init__(self, model: nn.Module, owner: Replayed) -> None:
        self._model = model
        self._owner = owner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._owner.run(self._model, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _recorded(
    model: nn.Module, leaves: list[Any], form: Any, places: tuple[int, ...], record: Record
) -> _Recording:
    held = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    args, kwargs = torch.utils._pytree.tree_unflatten(held, form)
    inputs = [leaf for leaf in held if isinstance(leaf, Tensor)]
    output, replay = record(lambda: model(*args, **kwargs))
    return _Recording(inputs, output, replay, places)


def record_on_cuda(work: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
    """Record the kernels that `work` launches on the current CUDA device as a graph.

    Raises:
        ConfigError: `work` waits for the device, or copies from the host, which a graph cannot hold.
    """
    device = torch.cuda.current_device()
    stream, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    aside.wait_stream(stream)
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):
            work()
    stream.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        # Whatever a thread that loads data does to the device meanwhile is no part of it.
        with torch.cuda.graph(graph, pool=_pool(device), capture_error_mode="thread_local"):
            output = work()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"compile='graphs' cannot record the student's forward as a CUDA graph ({reason}): set it to "
            "'blocks'."
        ) from error
    return output, graph.replay


_POOLS: Final[dict[int, Any]] = {}


def _pool(device: int) -> Any:
    """Memory that all graphs of a device share.

    They may: they run one after the other, each fills its inputs first, and outputs are copied out at once.
    """
    if device not in _POOLS:
        _POOLS[device] = torch.cuda.graph_pool_handle()
    return _POOLS[device]
