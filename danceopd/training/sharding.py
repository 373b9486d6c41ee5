"""Frozen models whose weights are spread over the processes of a run, by torch's FSDP2.

Each rank holds a share of every weight. A model's parts, its blocks and what is around them, are gathered by
all ranks together, one after the other, computed with, and given up again. What is trained, and all adapters,
stay whole on every rank: gradients, optimizer, checkpoints and exports are those of a run without sharding.

The price is that no rank can call such a model alone, while ranks have different work: rollouts of different
lengths, batches of different shapes, pictures that rank 0 draws. So every way through a model, forward or
backward, is a turn that all ranks take together, and agree upon before (`Ranks.take_turn`). One that has
nothing to compute in a turn lends: it takes part in the gathering, in the same order, without computing. All
of this hangs on hooks of the models, so that whoever calls one need not know.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.utils._pytree import tree_leaves, tree_map_only

from danceopd.families import Family, Shardable, Teacher
from danceopd.settings import ConfigError
from danceopd.training.config import TrainConfig
from danceopd.training.distributed import Ranks, checksum

_NAME: Final = "sharding='fsdp'"
_LOOKED_AT: Final = 16  # numbers of each rank's share


@contextmanager
def sharded_models(
    config: TrainConfig, family: Family, ranks: Ranks, asked: Sequence[Teacher]
) -> Iterator[None]:
    """Have the family's frozen models that are made within the block spread over the ranks, if asked for.

    Raises:
        ConfigError: that cannot be done, or is of no use.
        RanksDifferError: the ranks have read different weights.
        RankError: another rank has failed to make them.
    """
    if config.sharding == "none":
        yield
        return
    _check(config, family, ranks, asked)
    assert isinstance(family, Shardable)
    shards = Shards(ranks, family.device)
    with family.placed_by(shards.place), ranks.together(patient=True):
        yield
    ranks.lender = shards


def _check(config: TrainConfig, family: Family, ranks: Ranks, asked: Sequence[Teacher]) -> None:
    if ranks.size == 1:
        raise ConfigError(
            f"{_NAME} spreads weights over processes, but there is one: start several with torchrun, or set "
            "sharding to 'none'."
        )
    if not isinstance(family, Shardable):
        raise ConfigError(f"{_NAME} is not for family '{family.name}': set sharding to 'none'.")
    if config.student.settled("lora").kind == "full":
        raise ConfigError(
            f"{_NAME} spreads frozen weights alone, but student.kind is 'full', which trains all: train a "
            "LoRA, or set sharding to 'none'."
        )
    for teacher in asked:
        for key in ("offload", "quantization"):
            if getattr(teacher, key):
                raise ConfigError(
                    f"{_NAME} spreads every teacher's weights over the processes, but teacher "
                    f"'{teacher.name}' has {key}={getattr(teacher, key)!r}: drop that, or set sharding to "
                    "'none'."
                )
    if "ignored_params" not in inspect.signature(_fully_shard()).parameters:
        raise ConfigError(
            f"{_NAME} needs torch 2.7 or newer, but {torch.__version__} is installed: upgrade it, or set "
            "sharding to 'none'."
        )


def _fully_shard() -> Callable[..., Any]:
    # Only where it is asked for: importing it takes a second.
    from torch.distributed.fsdp import fully_shard

    return fully_shard


class Shards:
    """The models that the ranks share. See `danceopd.training.distributed.Lender`.

    Args:
        ranks: the processes.
        device: of this one.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        self._ranks = ranks
        self._device = device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where FSDP keeps its shares
        self._mesh = init_device_mesh(device.type, (ranks.size,))
        self._parts: list[_Part] = []
        self._passes: list[_Pass] = []
        self._own: _Pass | None = None  # that this rank computes in, or has computed in last

    def place(self, model: nn.Module, blocks: Sequence[nn.Module]) -> None:
        """Keep this rank's share of a frozen model on the device; its adapters stay whole.

        Args:
            model: with all its adapters, on the CPU.
            blocks: those of its modules that are gathered by themselves, in the order in which they run.

        Raises:
            RanksDifferError: another rank has other weights.
        """
        names = {id(value): name for name, value in model.named_parameters()}
        adapters = {value for name, value in model.named_parameters() if ".lora_" in name}
        sums: dict[str, int] = {}
        parts = []
        for part in (*blocks, model):
            # One part after the other: the device need never hold the whole model.
            for value in part.parameters():
                if not _is_share(value):
                    value.data = value.data.to(self._device)
                    if value not in adapters:
                        sums[names[id(value)]] = checksum(value)
            parts.append(_Part(part, adapters, self._ranks.size))
            _fully_shard()(part, mesh=self._mesh, reshard_after_forward=True, ignored_params=adapters)
        self._ranks.check_sums(sums, "the frozen model")
        for part in (model, *blocks):
            # FSDP would gather ahead what the forward before ran before this block: with passes of other
            # layouts, not what the other ranks gather next. The model's own part is there already.
            part.set_modules_to_backward_prefetch([model])  # type: ignore[operator]
        self._parts += parts
        *others, own = parts
        # Forward passes have the higher numbers, so come first: a rank that waits for others to be done with
        # them then takes its backward together with theirs.
        self._passes += [_Pass([own, *reversed(others)]), _Pass([own, *others])]
        self._watch(model, blocks, len(self._passes) - 1)

    def lend(self, turn: int) -> None:
        """See `danceopd.training.distributed.Lender`."""
        self._begin(self._passes[turn - 1])
        self.close()

    def close(self) -> None:
        """See `danceopd.training.distributed.Lender`."""
        own, self._own = self._own, None
        if own is not None:
            own.finish()

    def check(self) -> None:
        """See `danceopd.training.distributed.Lender`."""
        if self._parts and bool(torch.stack([part.was_wrong() for part in self._parts]).any()):
            raise RuntimeError(
                "the weights gathered from the ranks are not the model's: the ranks are out of step, so what "
                "was computed since the last update is dropped; set sharding to 'none', and report this."
            )

    def _begin(self, which: _Pass) -> None:
        which.begin()
        self._own = which

    def _take_turn(self, turn: int) -> None:
        self._ranks.take_turn(turn)
        self._begin(self._passes[turn - 1])

    def _watch(self, model: nn.Module, blocks: Sequence[nn.Module], backward: int) -> None:
        """Hang turns on the model's hooks, around those by which FSDP gathers it.

        Args:
            model: whose calls are turns.
            blocks: its parts.
            backward: number of the turn of a way back through it; the way through it is the next one.
        """
        way, back = self._passes[backward - 1 : backward + 1][::-1]

        for part in (model, *blocks):
            is_model = part is model

            def before(part: nn.Module, *_: Any, first: bool = is_model) -> None:
                if first:
                    self._take_turn(backward + 1)
                if self._own is way:  # and no part of a backward pass, which runs checkpointed blocks again
                    way.reach(part)

            def within(part: nn.Module, *_: Any) -> None:
                if self._own is way:
                    way.hold(part)

            def before_backward(part: nn.Module, _: Any, output: Any, *, first: bool = is_model) -> Any:
                def reached(_: Tensor) -> None:
                    if first:
                        self._take_turn(backward)
                    back.reach(part)

                if self._own is not way:
                    return output
                # A view that somebody changes in place would lose the hooks.
                output = tree_map_only(Tensor, _own_memory, output)
                _at_first_gradient(output, reached)
                return output

            def within_backward(part: nn.Module, _: Any, output: Any) -> None:
                def held(_: Tensor) -> None:
                    back.hold(part)

                if self._own is way:
                    _at_first_gradient(output, held)

            part.register_forward_pre_hook(before, prepend=True)
            part.register_forward_pre_hook(within)
            part.register_forward_hook(before_backward, prepend=True)
            part.register_forward_hook(within_backward)


class _Part:
    """A part of a model that is gathered at once, still whole when this is made.

    Ranks that gathered different parts of equal shape would get a mixture and go on, so some numbers out of
    every rank's share of the largest weight are kept, and looked at each time.

    Args:
        module: the part.
        adapters: what of it is not spread.
        ranks: over how many it is.
    """

    def __init__(self, module: nn.Module, adapters: Collection[Tensor], ranks: int) -> None:
        self.module: Any = module
        own = {
            name: value
            for name, value in module.named_parameters()
            if value not in adapters and not _is_share(value)
        }
        path, _, self._name = max(own, key=lambda name: own[name].numel()).rpartition(".")
        self._owner = module.get_submodule(path)
        weight = self._weight()
        self._places = torch.linspace(0, len(weight) - 1, _LOOKED_AT * ranks, dtype=torch.float64).long()
        self._places = self._places.to(weight.device)
        self._numbers = weight[self._places].clone()
        self._wrong = torch.zeros((), dtype=torch.bool, device=weight.device)

    def give_up(self) -> None:
        """Keep this rank's share alone."""
        self.module.reshard()

    def gather(self) -> None:
        """Hold the whole part, together with all ranks; it may be there already."""
        self.module.unshard()
        self._wrong |= (self._weight()[self._places] != self._numbers).any()  # read later: it would wait now

    def was_wrong(self) -> Tensor:
        """Whether it was not itself when it was gathered since this was asked last: bool [], not yet read."""
        wrong, self._wrong = self._wrong, torch.zeros_like(self._wrong)
        return wrong

    @torch.no_grad()
    def _weight(self) -> Tensor:
        weight: Tensor = getattr(self._owner, self._name)
        return weight.detach().reshape(-1)


class _Pass:
    """A way through a model, forward or backward, along which all ranks gather the same parts in one order.

    Args:
        parts: that order.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts
        self._place = {part.module: place for place, part in enumerate(parts)}
        self._next = len(parts)

    def begin(self) -> None:
        """Stand before the first part."""
        self._next = 0

    def reach(self, part: nn.Module) -> None:
        """`part` is about to be gathered; those before it, which this rank does not need, are lent.

        Raises:
            RuntimeError: it has been gathered before.
        """
        place = self._place[part]
        if place < self._next:
            raise RuntimeError(
                f"block {place} of the sharded model runs after block {self._next - 1}, but all ranks gather "
                "blocks in one order: set sharding to 'none'."
            )
        self._lend_until(place)
        self._parts[place].give_up()  # where a backward through several calls still holds it

    def hold(self, part: nn.Module) -> None:
        """`part` has been gathered, unless FSDP took it for one that is held still, and does nothing then."""
        place = self._place[part]
        self._parts[place].gather()
        self._next = place + 1

    def finish(self) -> None:
        """Lend the parts that are left."""
        self._lend_until(len(self._parts))

    def _lend_until(self, place: int) -> None:
        while self._next < place:
            part = self._parts[self._next]
            self._next += 1
            part.give_up()
            part.gather()
            part.give_up()


def _at_first_gradient(output: Any, call: Callable[[Tensor], None]) -> None:
    """Have `call` done when a backward pass reaches the first of the tensors in `output`."""
    reached = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if reached:
        register_multi_grad_hook(reached, call, mode="any")


def _own_memory(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.requires_grad and tensor._is_view() else tensor


def _is_share(value: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)
