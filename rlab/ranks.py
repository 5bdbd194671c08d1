"""The processes that train one learner together, as `torchrun` starts them: what they tell each other.

All of them hold the same learner and the same rows. Each steps its share of the envs and learns from its share of every
minibatch; gradients are averaged, so that the learner stays the same in all of them. What decides what happens next
(when to stop, how a judgement came out) is agreed on, since a process that went its own way would leave the others
waiting.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rlab.errors import RlabError, ToldElsewhereError, UsageError
from rlab.machine import ranks_here, ranks_started

MEETING = timedelta(minutes=30)  # until all have come
PATIENCE = timedelta(days=1)  # for each other: the first judges while the others wait; the death of one shows at once

_groups = 0  # how often the processes of this program have been connected
_sharing: "Ranks | None" = None  # among whom the minibatch that is learned from now is shared out


class Ranks:
    """Which of the processes this is, and the messages between them. All call the same methods in the same order.

    Args:
        rank: 0 for the first, which writes the run.
        count: how many there are; 1: this process trains alone, and nothing is sent.
    """

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count

    @property
    def leads(self) -> bool:
        """Whether this process writes, prints and judges."""
        return self.rank == 0

    def own(self, size: int) -> slice:
        """This process's share of so many things in a row, which `count` divides."""
        share = size // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def gathered(self, array: np.ndarray) -> np.ndarray:
        """The arrays of all processes, `[count, *shape]`; they have one shape and dtype."""
        if self.count == 1:
            return array[None]
        own = torch.from_numpy(np.ascontiguousarray(array))
        found = [torch.empty_like(own) for _ in range(self.count)]
        self._told(dist.all_gather, found, own)
        return torch.stack(found).numpy()

    def exchanged(self, value: Any) -> list[Any]:
        """What each process has to say, in the order of their ranks: plain data and arrays."""
        found = [value] * self.count
        if self.count > 1:
            self._told(dist.all_gather_object, found, value)
        return found

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.gathered(np.array(flag)).any())

    def of_first(self, find: Callable[[], Any]) -> Any:
        """What the first process finds; the others wait for it.

        Raises:
            RlabError: it failed; in the others a `ToldElsewhereError`.
        """
        if self.count == 1:
            return find()
        found, failure = None, None
        if self.leads:
            try:
                found = find()
            except RlabError as error:
                failure = error
        told = [found, None if failure is None else str(failure)]
        self._told(dist.broadcast_object_list, told, 0)
        if failure is not None:
            raise failure
        if told[1] is not None:
            raise ToldElsewhereError(told[1])
        return told[0]

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in memory of its own."""
        total = tensor.detach().clone()
        self._told(dist.all_reduce, total)
        return total

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """A block in which this process learns from its share of a minibatch: sums over the batch are those over the
        shares of all (`batch_sums`), and gradients are averaged (`average_`)."""
        global _sharing
        if self.count == 1:
            yield
            return
        _sharing = self
        try:
            yield
        finally:
            _sharing = None

    def averaged(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean of each value over all processes; they have the same names and one shape."""
        if self.count == 1 or not values:
            return dict(values)
        mean = self.summed(torch.stack(list(values.values()))) / self.count
        return dict(zip(values, mean, strict=True))

    def _told(self, send: Callable[..., Any], *message: Any) -> None:
        try:
            send(*message)
        except RuntimeError as error:  # the other end of a connection is gone
            raise RlabError(f"another of the {self.count} processes of this run has ended") from error


ALONE = Ranks(0, 1)


class _BatchSum(torch.autograd.Function):
    """The sum over all processes. A gradient flows back to this one's share alone, times their number: gradients are
    averaged afterwards, which makes the sum of all shares of it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        ctx.count = ranks.count
        return ranks.summed(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.count, None


def batch_sums(*sums: Tensor) -> Sequence[Tensor]:
    """Sums over the rows of a minibatch, each `[...]`: over those of all processes where it is shared out."""
    if _sharing is None:
        return sums
    dtype = torch.result_type(*sums) if len(sums) == 2 else sums[0].dtype
    whole: Tensor = _BatchSum.apply(torch.stack([each.to(dtype) for each in sums]), _sharing)
    return [total.to(each.dtype) for total, each in zip(whole, sums, strict=True)]


def average_(grads: list[Tensor]) -> list[Tensor]:
    """Gradients, each of the mean loss over a share of the minibatch, become those of the whole; in place. The shares
    are equally large."""
    if _sharing is not None:
        for grad in grads:
            grad.copy_(_sharing.summed(grad).div_(_sharing.count))
    return grads


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that `torchrun` started, connected; `ALONE` where it did not start this one.

    Raises:
        UsageError: the program has a process group of its own.
        RlabError: the others cannot be reached.
    """
    rank, count = ranks_started()
    if count == 1:
        yield ALONE
        return
    if dist.is_initialized():
        raise UsageError("torch.distributed is in use by this program, and rlab needs it for itself under torchrun.")
    ranks = Ranks(rank, count)
    ranks._told(_connect)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def _connect() -> None:
    """Messages between hosts go through gloo, gradients on GPUs through NCCL: each process has a GPU of its own."""
    global _groups
    own, of_machine = ranks_here()
    with_gpus = torch.cuda.is_available() and dist.is_nccl_available() and torch.cuda.device_count() >= of_machine
    if with_gpus:
        torch.cuda.set_device(own)
    store, rank, count = next(dist.rendezvous("env://", timeout=MEETING))
    _groups += 1
    fresh = dist.PrefixStore(f"rlab {_groups}", store)  # of the addresses that an earlier run of this program left
    backend = "cpu:gloo,cuda:nccl" if with_gpus else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, store=fresh, rank=rank, world_size=count)
