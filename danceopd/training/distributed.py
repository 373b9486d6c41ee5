"""The processes that share a run: one per GPU, started by ``torchrun`` or what sets its environment.

Why no DistributedDataParallel: it all-reduces in every backward and hooks the module's forward, but here the
student is called many times per update (rollouts without gradient, guidance, adapters of teachers on the same
module), and trains few of its weights. So gradients are summed locally over all passes of an update and over
the processes once, by `Ranks.sum_gradients`; from then on all of them take the same step.

Every method that talks to the others must be called by all ranks, in the same order.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from traceback import clear_frames
from typing import Any, Final, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from danceopd.methods import UpdateResult
from danceopd.settings import ConfigError
from danceopd.training.errors import RankError, RanksDifferError
from danceopd.training.roll_call import RollCall, is_timeout, rank_timeout

T = TypeVar("T")

_PATIENCE: Final = timedelta(days=2)  # while rank 0 encodes all rows or hashes all files
_BUCKET: Final = 25_000_000  # numbers that travel together: 100 MB
_DONE, _FAILED = 0, 2**31 - 1  # what a rank says at the end of a block, in place of the turn that it wants


class _OtherFailedError(Exception):
    """Leaves a block of `Ranks.together` in which another rank has failed."""


class Lender(Protocol):
    """What a rank gives to the others' calls of a model whose weights are spread over all of them."""

    def lend(self, turn: int) -> None:
        """Take part in a turn that another rank computes in."""
        ...

    def close(self) -> None:
        """Take part in what is left of this rank's own last turn; does nothing the second time."""
        ...

    def check(self) -> None:
        """Raise an error if what was gathered since the last check is not what was lent."""
        ...


class Ranks:
    """The processes of a run as one of them sees them; a process alone never touches torch.distributed.

    Joins the process group that is there (of accelerate's ``Accelerator`` or ``PartialState``, say), or the
    one that ``torchrun``'s environment describes. Whatever is small goes by gloo over the CPU, gradients by
    the group's own backend.

    Args:
        device: of this process.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        lender: of models that no rank can call alone; None where each has all weights for itself.

    Raises:
        ConfigError: two of them are on one GPU, or how long they are to wait for each other is no time.
        RankError: not all of them came.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = 0, 1
        self.lender: Lender | None = None
        if not _is_shared():
            return
        timeout = rank_timeout()
        with _told():
            if not dist.is_initialized():
                if device.type == "cuda":
                    torch.cuda.set_device(device)
                dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
                atexit.register(_leave)
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
            self._small = dist.new_group(backend="gloo", timeout=timeout)
            self._roll_call = RollCall(timeout)
            self._patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._group = self._small  # over which the ranks agree on turns
        self._check_devices(device)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and talks to people."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The small, picklable `value` of every rank, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _told():
            dist.all_gather_object(values, value, group=self._small)
        return values

    def gather_rows(self, rows: Tensor) -> Tensor:
        """[S, ...] of every rank, on the CPU and of one shape, as [ranks * S, ...]."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        with _told():
            dist.all_gather(parts, rows, group=self._small)
        return torch.cat(parts)

    def gather_result(self, result: UpdateResult) -> UpdateResult:
        """What the update saw on all ranks, samples in the order of their slots in the global batch."""
        if self.size == 1:
            return result
        rows = self.gather_rows(torch.cat([result.loss[:, None], result.error, result.sigma], dim=1))
        states = result.sigma.shape[1]
        loss, error, sigma = rows.split([1, states, states], dim=1)
        return UpdateResult(loss[:, 0], error, sigma, sum(self.gather(result.forwards)))

    def largest(self, value: int) -> int:
        """The largest `value` of any rank."""
        if self.size == 1:
            return value
        number = torch.tensor([value])
        with _told():
            dist.all_reduce(number, dist.ReduceOp.MAX, group=self._small)
        return int(number)

    @contextmanager
    def together(self, *, patient: bool = False) -> Iterator[None]:
        """Leave the block with an error on every rank if any of them does, and only when all are there.

        Args:
            patient: whether some ranks may take hours where others have nothing to do.

        Raises:
            RankError: another rank has failed; the message is that rank's own.
        """
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        outer, self._group = self._group, self._patient if patient else self._small
        try:
            yield
        except RankError:
            raise  # nobody is there to be told
        except _OtherFailedError:
            failed = True
        except Exception as caught:
            if self.lender is not None:
                _let_go(caught)
            failed, error = self._settle(caught)
        else:
            failed, error = self._settle(None)
        finally:
            self._group = outer
        if not failed:
            return
        try:
            told = self.gather(None if error is None else f"{type(error).__name__}: {error}")
        except RankError:
            if error is None:
                raise
        if error is not None:
            raise error
        rank = next(rank for rank, text in enumerate(told) if text is not None)
        raise RankError(f"rank {rank} of {self.size} has failed, so all end: {told[rank]}")

    def take_turn(self, turn: int) -> None:
        """Return when all ranks are at `turn`, and lend them what they need for theirs until then.

        The highest turn that any rank wants is the next one.

        Args:
            turn: above 0; what it stands for is the lender's business.

        Raises:
            RankError: another rank is gone. If one has failed, the block of `together` is left.
        """
        assert self.lender is not None
        self.lender.close()
        while (now := self._agree(turn)) != turn:
            if now == _FAILED:
                raise _OtherFailedError
            self.lender.lend(now)

    def _settle(self, error: Exception | None) -> tuple[bool, Exception | None]:
        """Lend until all are at the end of their block; whether one has failed, and this rank's own error."""
        while True:
            try:
                if self.lender is not None:
                    self.lender.close()
                    if error is None:
                        self.lender.check()
                now = self._agree(_DONE if error is None else _FAILED)
                if now in (_DONE, _FAILED):
                    return now == _FAILED, error
                assert self.lender is not None
                self.lender.lend(now)
            except RankError:
                raise
            except Exception as caught:
                error = error or caught

    def _agree(self, value: int) -> int:
        number = torch.tensor([value], dtype=torch.int32)
        with _told():
            dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group)
        return int(number)

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, which alone does it; picklable.

        Raises:
            RankError: it failed there; on rank 0 its own error.
        """
        result: T | None = None
        with self.together(patient=True):
            if self.is_first:
                result = work()
        return self.gather(result)[0]  # type: ignore[return-value]

    def in_turn(self, work: Callable[[], T]) -> T:
        """Have `work` done by rank 0 first, and then by the others, who find its files there."""
        results: list[T] = []
        for turn in (True, False) if self.size > 1 else (True,):
            with self.together(patient=True):
                if turn == self.is_first:
                    results.append(work())
        return results[0]

    def broadcast(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill `tensors` with those of rank 0."""
        if self.size == 1:
            return
        with _told(), torch.no_grad():
            for tensor in tensors.values():
                dist.broadcast(tensor, src=0)

    def check_same(self, tensors: Mapping[str, Tensor], what: str) -> None:
        """Refuse to go on if a rank holds other bits than rank 0.

        Args:
            tensors: of the same names on all ranks; those that are no plain ones, but quantised, say, are
                passed over.
            what: they are, for the message.

        Raises:
            RanksDifferError: it names the first that differs.
        """
        if self.size == 1:
            return
        plain = {name: tensor for name, tensor in tensors.items() if type(tensor.data) is Tensor}
        self.check_sums({name: checksum(tensor) for name, tensor in plain.items()}, what)

    def check_sums(self, own: Mapping[str, int], what: str) -> None:
        """As `check_same`, of `checksum`s that were made before."""
        sums = self.gather(own)
        for rank, there in enumerate(sums):
            for name in sorted(there.keys() | sums[0].keys()):
                if there.get(name) != sums[0].get(name):
                    raise RanksDifferError(
                        f"{what} on rank {rank} is not that of rank 0, beginning with '{name}': check that "
                        "all nodes have the same files, the same versions and sound memory; the newest "
                        "checkpoint is from before that was seen."
                    )

    def sum_gradients(self, weights: Mapping[str, Tensor]) -> None:
        """Replace each weight's gradient by its sum over the ranks; one that no rank has stays away.

        Each rank's gradient is its share of the global batch's mean already, so the sum is that mean's.

        Args:
            weights: the same names and shapes, in the same order, on all ranks.
        """
        if self.size == 1:
            return
        values = list(weights.values())
        there = torch.tensor([value.grad is not None for value in values], dtype=torch.int32)
        with _told():
            dist.all_reduce(there, dist.ReduceOp.MAX, group=self._small)
            # A rank whose samples did not need a weight takes part with zeros.
            used = [value for value, somewhere in zip(values, there.tolist(), strict=True) if somewhere]
            for bucket in _buckets(used):
                parts = [torch.zeros_like(value) if value.grad is None else value.grad for value in bucket]
                flat = torch.cat([part.reshape(-1) for part in parts])
                for value in bucket:
                    value.grad = None  # before the exchange: then only one bucket is held twice
                dist.all_reduce(flat)
                pieces = flat.split([value.numel() for value in bucket])
                for value, piece in zip(bucket, pieces, strict=True):
                    value.grad = piece.view(value.shape)

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Wait at the end until all are there, however the run ends: a launcher kills those who come late."""
        try:
            yield
        except Exception as error:
            if isinstance(error, RankError) and is_timeout(error):
                raise RankError(f"{self._roll_call.missing()}: {error}") from error
            with suppress(RankError):
                self._wait()
            raise
        self._wait()

    def _wait(self) -> None:
        if self.size > 1:
            with _told():
                dist.barrier(group=self._small)

    def _check_devices(self, device: torch.device) -> None:
        if device.type != "cuda":
            return
        own = (os.uname().nodename, str(torch.cuda.get_device_properties(device).uuid))
        everywhere = self.gather(own)
        if everywhere.count(own) > 1:
            raise ConfigError(
                f"device '{device}' is used by {everywhere.count(own)} processes of this run: write device "
                "'cuda', which gives each its own, and start no more than there are GPUs."
            )


def checksum(tensor: Tensor) -> int:
    """A number that any changed bit of `tensor`, or two exchanged numbers, most surely change.

    Integer sums, so that it does not hang on their order; computed where the tensor lies.
    """
    plain = tensor.detach().contiguous().view(-1)
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[plain.itemsize]
    total = 0
    for part in plain.view(integers).split(1 << 22):  # int64 copies of all at once could find no room
        place = torch.arange(1, len(part) + 1, device=part.device)
        total = total * 1_000_003 + int((part.long() * (2 * place + 1)).sum())
    return total & (1 << 64) - 1


def _let_go(error: BaseException | None) -> None:
    """Free what the frames that an error has left hold: after one of memory, lending needs some of it."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def num_processes() -> int:
    """How many processes share the run that this one belongs to, or will."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_shared() -> bool:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return True
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """In their order, `_BUCKET` numbers at most in each, or one tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(other.numel() for other in bucket) + tensor.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def _told() -> Iterator[None]:
    """Turn what torch raises when a process is gone into a sentence."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, (RankError, torch.OutOfMemoryError)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise RankError(
            "another process of this run is gone or did not answer, so this one ends too: see what that one "
            f"said last, and start the same training again, which continues ({reason})"
        ) from error
