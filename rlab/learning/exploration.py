"""How an agent explores: epsilon-greedy actions, and the noise that turns a policy's outputs into sampled actions.

An agent knows that it draws in every vector step, so that many steps are drawn at once. A policy that is asked with
`greedy=False` (`rlab.networks.heads`) cannot know what it will be asked next, and draws from the torch generators that
its caller brings; so each has its own code for the same distributions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.networks.spaces import Discrete, Space

AHEAD = 256  # vector steps that are drawn at once
LONGEST = 16_384  # steps for which an exploring action is held at most


def linear(start: float, end: float, fraction: float, progress: float) -> float:
    """From `start` to `end` over the first `fraction` of a run, then `end`. `progress` is in [0, 1]."""
    return end if progress >= fraction else start + (end - start) * progress / fraction


# What a head asks for -> numbers of that distribution.
NOISE: dict[str, Callable[..., Tensor]] = {"gumbel": Draws.gumbel, "logistic": Draws.logistic, "normal": Draws.normal}


class ActionNoise:
    """Noise `[S, N, width]` for every vector step.

    Args:
        kind: one of `NOISE`.
        width: numbers per action.
        seeds: the training seed of each member.
        device: where it is needed.
        use: what it is for; two of one use give the same numbers.
    """

    def __init__(
        self, kind: str, width: int, seeds: Sequence[int], device: torch.device | str = "cpu", use: str = "actions"
    ) -> None:
        self._draw, self._width = NOISE[kind], width
        self._draws = Draws(seeds, use, device, ahead=AHEAD)

    def next(self, num_envs: int) -> Tensor:
        """The noise of one vector step, `[S, N, width]` float32."""
        return self._draw(self._draws, num_envs, self._width)

    def state(self) -> dict[str, Any]:
        return self._draws.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self._draws.load_state(state)


class EpsilonGreedy:
    """One coin and one uniform action per env and step, each member from its own stream.

    With `duration_exponent` mu an exploring action is held for n steps, drawn with probability proportional to n^-mu, n
    up to `LONGEST` (temporally extended epsilon-greedy, Dabney et al. 2021, section 4; their mu is 2). Long pushes in
    one direction reach what single random actions never do.
    """

    def __init__(
        self,
        num_actions: int,
        seeds: Sequence[int],
        duration_exponent: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._num_actions, self._seeds, self._device = num_actions, tuple(seeds), torch.device(device)
        self._draws = Draws(seeds, "exploration", device, ahead=AHEAD)
        self._left: Tensor | None = None  # [S, N] steps for which the held action goes on
        self._held: Tensor | None = None  # [S, N]
        self._durations: Tensor | None = None  # [LONGEST], the probability of n steps or fewer
        if duration_exponent is not None:
            weight = torch.arange(1, LONGEST + 1, dtype=torch.float64).pow(-duration_exponent)
            self._durations = (weight.cumsum(0) / weight.sum()).float().to(device)

    def choose(self, greedy: Tensor, epsilon: float | Tensor, allowed: Tensor | None = None) -> Tensor:
        """Actions `[S, N]`: the greedy one, or where the env's coin is below `epsilon` a uniform one.

        `allowed [S, N, A]` is bool and true somewhere in every row: a uniform action is one of these, and a held action
        ends where it is no longer allowed.
        """
        numbers = 2 if self._durations is None else 3
        coins, share, *further = self._draws.uniform(numbers, greedy.shape[1]).unbind(1)
        explore = coins < epsilon
        actions = (share * self._num_actions).long() if allowed is None else _pick(allowed, share)
        if self._durations is None:
            return torch.where(explore, actions, greedy)
        left, held = self._holding(greedy.shape[1])
        if allowed is not None:
            left *= allowed.gather(-1, held.unsqueeze(-1)).squeeze(-1)
        begins = (left == 0) & explore
        lengths = (torch.searchsorted(self._durations, further[0].contiguous()) + 1).clamp(max=LONGEST)
        held.copy_(torch.where(begins, actions, held))
        left.copy_(torch.where(begins, lengths, left))
        chosen = torch.where(left > 0, held, greedy)
        left.sub_(1).clamp_(min=0)
        return chosen

    def _holding(self, num_envs: int) -> tuple[Tensor, Tensor]:
        if self._left is None or self._held is None:
            shape = (len(self._seeds), num_envs)
            self._left, self._held = torch.zeros((2, *shape), dtype=torch.int64, device=self._device).unbind(0)
        return self._left, self._held

    def state(self) -> dict[str, Any]:
        """The draws, and what is being held."""
        return {
            **self._draws.state(),
            "left": None if self._left is None else self._left.clone(),
            "held": None if self._held is None else self._held.clone(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with the very draw that came after `state()`."""
        self._draws.load_state(state)
        if state["left"] is not None:
            left, held = self._holding(state["left"].shape[1])
            left.copy_(state["left"])
            held.copy_(state["held"])


class UniformActions:
    """Uniform actions over the whole space, with which agents fill replay before they learn.

    Args:
        head: of the policy; it says how actions look.
        space: a Box whose elements all have two finite bounds, or Discrete.
        seeds: the training seed of each member.
        device: where they are needed.
    """

    def __init__(self, head: Any, space: Space, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._head, self._choices = head, isinstance(space, Discrete)
        self._width = 1 if self._choices else head.size
        self._draws = Draws(seeds, "uniform actions", device, ahead=AHEAD)

    def instead_of(self, actions: Tensor, share: float | Tensor, allowed: Tensor | None = None) -> Tensor:
        """Uniform ones in the place of this share of the `actions [S, N, *action]`.

        `allowed [S, N, A]` is bool and true somewhere in every row: a choice is one of these.
        """
        lead = actions.shape[:2]
        coins, numbers = self._draws.uniform(lead[1], 1 + self._width).split([1, self._width], dim=-1)
        if not self._choices:
            uniform = self._head.denormalised(2.0 * numbers - 1.0)
        elif allowed is None:
            uniform = (numbers.squeeze(-1) * self._head.width).long()
        else:
            uniform = _pick(allowed, numbers.squeeze(-1))
        chosen = (coins < share).reshape(*lead, *[1] * (actions.dim() - 2))
        return torch.where(chosen, uniform, actions)

    def state(self) -> dict[str, Any]:
        return self._draws.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self._draws.load_state(state)


def _pick(allowed: Tensor, share: Tensor) -> Tensor:
    """The action `[S, N]` that stands at `share [S, N]` of the way through those `allowed [S, N, A]`."""
    rank = (share * allowed.sum(dim=-1)).long()
    return (allowed.cumsum(dim=-1) > rank.unsqueeze(-1)).to(torch.int8).argmax(dim=-1)
