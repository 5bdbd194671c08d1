"""Counter-based random numbers in tensors: each depends on a key, a draw number and its place in the draw alone.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3) in int64 tensors. So a
member's numbers are the same beside any other members, on the CPU and on a GPU, eager and inside a traced program, and
going on from a checkpoint takes the draw number alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.randomness import counter_key

WORD = 0xFFFFFFFF  # the low 32 bits; a word is an int64 in [0, 2**32)
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # Salmon et al. 2011, Random123's philox.h
WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key from round to round: the golden ratio and sqrt(3) - 1
MOST_AHEAD = 2**16  # words in one eager block: more of them leave a CPU's cache, and cost more each

_programs_run = 0  # rises with every run of a program, which may have advanced any counter


def programs_ran() -> None:
    """Tell every `Draws` that a program ran: the next eager call reads its counter again."""
    global _programs_run
    _programs_run += 1


def in_program(device: torch.device) -> bool:
    """Whether a program is being traced, or a graph captured on the device: its Python code does not run again."""
    return torch.compiler.is_compiling() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def key_schedule(key: Tensor) -> Tensor:
    """The keys of the rounds, `[ROUNDS, 2, ...]`, from the words `[2, ...]` of a key."""
    steps = torch.arange(ROUNDS, device=key.device).view(-1, *[1] * key.dim())
    weyl = torch.tensor(WEYL, device=key.device).view(-1, *[1] * (key.dim() - 1))
    return (key + steps * weyl) & WORD


def philox(counter: Sequence[Tensor], keys: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Philox4x32-10: four words for each counter of four words.

    Args:
        counter: four tensors of words, which broadcast with each other and with the keys; they stay as they are.
        keys: `key_schedule`, whose two tensors of each round broadcast likewise.

    A product of two words wraps around in int64 and its shift is arithmetic: masking comes after the shift, so that
    both halves are right. The low half is masked only where it leaves.
    """
    c0, c1, c2, c3 = counter
    for done, (k0, k1) in enumerate(keys):
        if done < 3:  # until here words of a small shape are worked out once for all that they broadcast to
            p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
            c0, c2 = ((p1 >> 32) ^ c1 ^ k0) & WORD, ((p0 >> 32) ^ c3 ^ k1) & WORD
        else:  # in place: half the time of new tensors where the block is large
            p0, p1 = c0.mul_(MULTIPLIERS[0]), c2.mul_(MULTIPLIERS[1])
            c0 = (p1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(WORD)
            c2 = (p0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(WORD)
        c1, c3 = p1, p0
    return [c0, c1 & WORD, c2, c3 & WORD]


class Draws:
    """The random numbers of several members for one use, on one device; every call takes the next draw.

    Inside a traced program or a graph that is being captured a call works from `counter` and advances it on the device,
    so that every run of the program draws anew. Eagerly some calls of one method and shape are worked out at once.

    Args:
        seeds: the training seed of each member. Numbers are `[S, *shape]`.
        use: what the numbers are for; two objects with one use draw the same numbers.
        device: where they are drawn.
        ahead: how many successive eager calls to work out at once where they are small; what is drawn stays the same.
            The calls of a block share memory.

    Raises:
        ValueError: `ahead` is below 1, or the name of the use is shorter than four letters.
    """

    def __init__(self, seeds: Sequence[int], use: str, device: torch.device | str, ahead: int = 1) -> None:
        self._begin([counter_key(seed, use) for seed in seeds], (len(seeds),), device, ahead)

    @classmethod
    def of_uses(cls, rows: Sequence[tuple[int, str]], device: torch.device | str, ahead: int = 1) -> "Draws":
        """Numbers `[R, *shape]`, each row's by a training seed and a use of its own."""
        draws = cls.__new__(cls)
        draws._begin([counter_key(seed, use) for seed, use in rows], (len(rows),), device, ahead)
        return draws

    @classmethod
    def of_envs(
        cls, seeds: Sequence[int], num_envs: int, use: str, device: torch.device | str, ahead: int = 1
    ) -> "Draws":
        """Numbers `[S, N, *shape]`, each sub-env's by its own key, so that they do not depend on `num_envs` either."""
        draws = cls.__new__(cls)
        keys = [counter_key(seed, use, env) for seed in seeds for env in range(num_envs)]
        draws._begin(keys, (len(seeds), num_envs), device, ahead)
        return draws

    def _begin(
        self, keys: list[tuple[int, int]], lead: tuple[int, ...], device: torch.device | str, ahead: int
    ) -> None:
        if ahead < 1:
            raise ValueError(f"ahead must be at least 1, not {ahead}")
        self.lead, self.ahead = lead, ahead
        self.counter = torch.zeros((), dtype=torch.int64, device=device)  # the number of the next draw
        self.device = self.counter.device
        key = torch.tensor(keys, dtype=torch.int64, device=self.device).T.reshape(2, *lead, 1)
        # contiguous: a compiler does not vectorise what it reads with strides
        self._keys = [(first, second) for first, second in key_schedule(key).contiguous()]
        self._draw, self._programs_run = 0, _programs_run  # the counter as Python knows it, and since when
        self._what: tuple[Any, ...] = ()  # what the block is a block of
        self._block: list[Tensor] = []  # the calls worked out ahead, the next one last

    def to(self, device: torch.device) -> "Draws":
        """Itself, drawing on this device from now on; before anything is traced."""
        if device != self.device:
            self.device, self.counter, self._block = device, self.counter.to(device), []
            self._keys = [(first.to(device), second.to(device)) for first, second in self._keys]
        return self

    def words(self, n: int) -> Tensor:
        """Words `[*lead, n]` int64, uniform in [0, 2**32)."""
        return self._next(_same, (n,))

    def uniform(self, *shape: int) -> Tensor:
        """Float32 `[*lead, *shape]`, uniform over the multiples of 2**-24 in [0, 1)."""
        return self._next(_uniform, shape)

    def normal(self, *shape: int) -> Tensor:
        """Float32 `[*lead, *shape]` of the standard normal distribution, up to 6.8 from 0."""
        return self._next(_normal, shape)

    def gumbel(self, *shape: int) -> Tensor:
        """Float32 `[*lead, *shape]` of the standard Gumbel distribution, in [-3.2, 22.9]."""
        return self._next(_gumbel, shape)

    def logistic(self, *shape: int) -> Tensor:
        """Float32 `[*lead, *shape]` of the standard logistic distribution, up to 22.9 from 0."""
        return self._next(_logistic, shape)

    def bernoulli(self, p: float | Tensor, *shape: int) -> Tensor:
        """Bool `[*lead, *shape]`, true with probability `p`, a number or a tensor that broadcasts to the result."""
        return self.uniform(*shape) < p

    def integers(self, high: int | Tensor, *shape: int) -> Tensor:
        """Int64 `[*lead, *shape]` in [0, high).

        Args:
            high: from 1 to 2**31; an int, or an int64 tensor that broadcasts to the result and whose values are not
                checked, since that would read them from the device.
            shape: of each member's numbers.

        The high half of word times `high`: no number's probability is off by more than 2**-32.
        """
        if not isinstance(high, Tensor) and not 1 <= high <= 2**31:
            raise ValueError(f"high must be in [1, 2**31], not {high}")
        return _integers(self._next(_same, shape), high)  # one block of words serves any `high`

    def permutation(self, n: int) -> Tensor:
        """Int64 `[*lead, n]`: 0 to n - 1 in an order that is uniform but for two equal words in 2**32."""
        return self._next(_order, (n,))

    def state(self) -> dict[str, int]:
        """The number of the next draw."""
        self._look()
        return {"draw": self._draw}

    def load_state(self, state: dict[str, int]) -> None:
        """Go on with the very draw that came after `state()`."""
        self.counter.fill_(state["draw"])
        self._draw, self._block = state["draw"], []

    def _next(self, of_words: Callable[..., Tensor], shape: tuple[int, ...], *args: Any) -> Tensor:
        """`of_words(words, *args)` of the next draw. Its words `[..., n]` become as many numbers, each from its own."""
        if in_program(self.device):
            numbers = self._numbers(self.counter, of_words, shape, args)
            self.counter.add_(1)
            return numbers
        self._look()
        if not self._block or self._what != (of_words, shape, args):
            self._what = (of_words, shape, args)
            self._block = self._work_ahead(of_words, shape, args)
        self.counter.add_(1)
        self._draw += 1
        return self._block.pop()

    def _look(self) -> None:
        """Find out whether a program has advanced the counter."""
        if self._programs_run == _programs_run:
            return
        self._programs_run = _programs_run
        draw = int(self.counter.item())
        if draw != self._draw:
            self._draw, self._block = draw, []

    def _work_ahead(
        self, of_words: Callable[..., Tensor], shape: tuple[int, ...], args: tuple[Any, ...]
    ) -> list[Tensor]:
        one_call = max(1, math.prod(self.lead) * math.prod(shape))
        ahead = min(self.ahead, max(1, MOST_AHEAD // one_call))
        draws = torch.arange(self._draw, self._draw + ahead, device=self.device)
        numbers = self._numbers(draws.view(-1, *[1] * len(self.lead), 1), of_words, shape, args)
        return list(numbers.unbind())[::-1]

    def _numbers(
        self, draw: Tensor, of_words: Callable[..., Tensor], shape: tuple[int, ...], args: tuple[Any, ...]
    ) -> Tensor:
        """Numbers `[..., *lead, *shape]` of the draws `[..., *lead's ones, 1]` or of one draw `[]`."""
        n = math.prod(shape)
        needed = n + n % 2 if of_words is _normal else n  # which makes two numbers of two words
        # Masked so that a compiler sees data in it and not an index: Triton multiplies indices in 32 bits.
        index = torch.arange((needed + 3) // 4, device=self.device) & WORD
        high = draw >> 32
        words = philox((index, draw & WORD, high, torch.zeros_like(high)), self._keys)
        in_order = torch.stack(words[: max(1, needed)], dim=-1).flatten(-2)[..., :needed]
        numbers = of_words(in_order, *args)[..., :n]
        return numbers.reshape(*numbers.shape[:-1], *shape)


def _same(words: Tensor) -> Tensor:
    return words


def _uniform(words: Tensor) -> Tensor:
    return (words >> 8).to(torch.float32) * 2.0**-24


def _inside(words: Tensor) -> Tensor:
    """Float64 in (0, 1), the middle of each of 2**32 parts: no logarithm is infinite, and both tails are fine."""
    return (words.to(torch.float64) + 0.5) * 2.0**-32


def _normal(words: Tensor) -> Tensor:
    """Box and Muller (1958): two normal numbers from two uniform ones."""
    first, second = _inside(words).unflatten(-1, (-1, 2)).unbind(-1)
    radius, angle = (-2 * first.log()).sqrt(), second * (2 * math.pi)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(-2).to(torch.float32)


def _gumbel(words: Tensor) -> Tensor:
    return -(-_inside(words).log()).log().to(torch.float32)


def _logistic(words: Tensor) -> Tensor:
    share = _inside(words)
    return (share.log() - (1 - share).log()).to(torch.float32)


def _integers(words: Tensor, high: int | Tensor) -> Tensor:
    """Lemire (2019), without the rejection step, which would not have a fixed length."""
    return (words * high) >> 32


def _order(words: Tensor) -> Tensor:
    n = words.shape[-1]
    keys = words * n + torch.arange(n, device=words.device)  # all different, so that every sort gives one order
    if words.device.type == "cpu" and not torch.compiler.is_compiling():  # NumPy sorts up to 15 times as fast
        return torch.from_numpy(np.sort(keys.numpy(), axis=-1)) % n
    return keys.sort(dim=-1).values % n
