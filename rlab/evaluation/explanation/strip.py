"""One greedy episode as it went: pictures, what the policy said at each step, the rewards."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.evaluation.episode_driver import EpisodeStep
from rlab.evaluation.explanation.target import ACTION, ADVANTAGE, Target
from rlab.evaluation.explanation.watching import Said, watch
from rlab.experience.env_contract import EpisodeEnvs
from rlab.networks.heads import BernoulliHead, MultiCategoricalHead
from rlab.networks.policy import MemberPolicy

PICTURES = 8  # at least, of an episode long enough, and less than twice as many
Picture = Callable[[], np.ndarray]  # what the env looks like now, [height, width, 3] uint8


@dataclass(frozen=True, eq=False)
class Strip:
    """The episode of one seed."""

    seed: int
    what: str  # the policy said, such as `Q value`
    lines: tuple[str, ...]  # of what, [L]
    values: np.ndarray  # [T, L] at each step, before its action
    chosen: np.ndarray  # [T, K] options taken, counted from 0; -1 of continuous actions
    reward: np.ndarray  # [T] float64
    ending: str  # `terminated` or `truncated`
    pictures: tuple[tuple[int, np.ndarray], ...] = ()  # step and picture before it

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; the pictures are on the page alone."""
        said = {"what": self.what, "lines": list(self.lines), "values": self.values.tolist()}
        facts = {
            "seed": self.seed,
            "steps": len(self.reward),
            "return": float(self.reward.sum()),
            "ending": self.ending,
        }
        return {**facts, **said, "reward": self.reward.tolist()}


def strip_of(
    policy: MemberPolicy,
    target: Target,
    envs: EpisodeEnvs,
    seed: int,
    picture: Picture | None = None,
) -> Strip:
    """Play one episode in an env.

    Args:
        picture: None: there are none.

    Raises:
        RlabError: as `watch`.
    """
    values: list[np.ndarray] = []
    chosen: list[np.ndarray] = []
    rewards: list[float] = []
    pictures: dict[int, np.ndarray] = {}
    stride, ending = 1, ""

    def show(said: Said, active: np.ndarray) -> None:
        nonlocal stride
        step = len(values)
        scores = target.scores(said.outputs)
        values.append(_said(target, scores, said.mask)[0].double().numpy())
        chosen.append(target.contrast(scores, said.mask).chosen[0].numpy())
        if picture is not None and step % stride == 0:
            pictures[step] = picture()
            if len(pictures) == 2 * PICTURES:
                stride *= 2
                for old in [each for each in pictures if each % stride]:
                    del pictures[old]

    def after(step: EpisodeStep) -> None:
        nonlocal ending
        rewards.append(float(step.reward[0, 0]))
        ending = "terminated" if step.terminated[0, 0] else "truncated"

    watch(policy, envs, [seed], show, after)
    what, lines = _lines(target)
    said = np.stack(values)
    return Strip(seed, what, lines, said, np.stack(chosen), np.array(rewards), ending, tuple(pictures.items()))


@torch.no_grad()
def _said(target: Target, scores: Tensor, mask: Tensor | None) -> Tensor:
    """What is drawn of the scores `[B, W]`: `[B, L]`, NaN where the mask forbids."""
    if target.kind == ACTION:
        return scores
    if isinstance(target.head, BernoulliHead):
        return scores.sigmoid()
    if isinstance(target.head, MultiCategoricalHead):  # of each choice the probability of the option that is taken
        allowed = target.head.real if mask is None else target.head.real & mask[..., target.head.place]
        logits = scores[..., target.head.place].masked_fill(~allowed, -torch.inf)
        return logits.softmax(dim=-1).amax(dim=-1)
    if target.kind == ADVANTAGE:
        return scores if mask is None else scores.masked_fill(~mask, torch.nan)
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)


def _lines(target: Target) -> tuple[str, tuple[str, ...]]:
    parts = tuple(part or "action" for part in target.parts)
    if target.kind == ACTION:
        return "action", parts
    if isinstance(target.head, BernoulliHead):
        return "probability of 1", parts
    if isinstance(target.head, MultiCategoricalHead):
        return "probability of the option taken", parts
    return ("Q value" if target.kind == ADVANTAGE else "probability"), target.options()
