"""From raw observations to what a network eats; part of the policy, so saved, exported and frozen with it."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from rlab.errors import UsageError, unknown
from rlab.networks.spaces import Box, Space
from rlab.types import Json

SCALINGS = ("none", "fixed", "running")
EPSILON = 1e-8  # added to the running variance, as in Stable-Baselines3's VecNormalize
CLIP = 10.0  # normalised observations are kept in +-10 (Andrychowicz et al. 2021, section 3.4)


class Preprocess(nn.Module):
    """`[S, B, *obs]` of any dtype to float32: images divided by 255 with channels first, vectors scaled.

    Scaling `none` leaves vectors alone, `fixed` divides by `scale` (which no other reads), `running` subtracts the mean
    and divides by the standard deviation of all observations that member has trained on. A plain (unstacked) one has
    `members = None`.

    Raises:
        UsageError: the scaling is not known or does not suit the observations, or `scale` is no divisor for each
            component.
    """

    factor: Tensor  # fixed: one over the divisor, [S, 1, *obs] or [*obs]
    count: Tensor  # running: [S] or [], observations seen
    mean: Tensor  # running: [S, 1, *obs] or [*obs]
    variance: Tensor  # running: [S, 1, *obs] or [*obs]

    def __init__(self, obs_space: Space, scaling: str, scale: tuple[float, ...] | None, members: int | None) -> None:
        super().__init__()
        if scaling not in SCALINGS:
            raise unknown("observation scaling", scaling, SCALINGS)
        if not isinstance(obs_space, Box):
            raise UsageError(f"observations {obs_space} are not supported; Box is.")
        if obs_space.is_image and scaling != "none":
            raise UsageError(f"obs_scaling {scaling!r} is for vectors; images are scaled to [0, 1] in any case.")
        self.obs_space, self.scaling, self.scale, self.members = obs_space, scaling, scale, members
        lead = () if members is None else (members, 1)
        if scaling == "fixed":
            factor = 1.0 / fixed_scale(obs_space, scale)
            self.register_buffer("factor", factor.expand(*lead, *obs_space.shape).clone())
        if scaling == "running":
            self.register_buffer("count", torch.zeros(lead[:1], dtype=torch.float64))
            self.register_buffer("mean", torch.zeros(*lead, *obs_space.shape, dtype=torch.float64))
            self.register_buffer("variance", torch.ones(*lead, *obs_space.shape, dtype=torch.float64))

    def forward(self, obs: Tensor) -> Tensor:
        """What the network sees of `obs [..., *obs]`; the statistics are read, never changed."""
        if self.obs_space.is_image:
            pixels = obs.to(torch.float32).movedim(-1, -3)  # channels last -> channels first
            return pixels / 255.0 if self.obs_space.dtype == "uint8" else pixels
        vector = obs.to(torch.float32)
        if self.scaling == "fixed":
            return vector * self.factor
        if self.scaling == "running":
            deviation = (self.variance + EPSILON).sqrt()
            return ((vector - self.mean.float()) / deviation.float()).clamp(-CLIP, CLIP)
        return vector

    @torch.no_grad()
    def observe(self, obs: np.ndarray | Tensor, valid: np.ndarray | Tensor) -> None:
        """Fold `obs [S, N, *obs]` into the running statistics where `valid [S, N]`; other scalings do nothing.

        Parallel mean and variance of Chan, Golub and LeVeque (1983), equation 2.1, per member.
        """
        if self.scaling != "running":
            return
        # np.array: an env may hand out read-only arrays, which torch does not take
        rows = torch.as_tensor(np.array(valid) if isinstance(valid, np.ndarray) else valid, device=self.mean.device)
        batch = torch.as_tensor(np.array(obs) if isinstance(obs, np.ndarray) else obs, device=self.mean.device).double()
        weight = rows.double().reshape(*rows.shape, *[1] * (batch.dim() - 2))  # [S, N, 1...]
        count = weight.sum(dim=1, keepdim=True)  # [S, 1, 1...]
        mean = (batch * weight).sum(dim=1, keepdim=True) / count.clamp(min=1.0)
        squares = ((batch - mean).square() * weight).sum(dim=1, keepdim=True)
        before = self.count.reshape(count.shape)
        total = (before + count).clamp(min=1.0)
        delta = mean - self.mean
        squares = squares + self.variance * before + delta.square() * before * count / total
        self.mean.add_(delta * count / total)
        self.variance.copy_(torch.where(count > 0, squares / total, self.variance))
        self.count.add_(count.reshape(self.count.shape))

    @torch.no_grad()
    def unstack(self, member: int) -> Self:
        """The plain preprocessing of one member, for `[*obs]` or `[B, *obs]`."""
        plain = type(self)(self.obs_space, self.scaling, self.scale, None)
        for name, buffer in self.named_buffers():
            value = buffer[member] if name == "count" else buffer[member, 0]
            plain.get_buffer(name).copy_(value)
        return plain.to(next(self.buffers(), torch.empty(0)).device)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs beside the observation space; the statistics are tensors of the state dict."""
        return {"scaling": self.scaling, "scale": None if self.scale is None else list(self.scale)}

    @classmethod
    def from_json(cls, data: Json, obs_space: Space, members: int | None) -> Self:
        """Rebuilt from what `to_json` wrote, with fresh statistics."""
        scale = None if data["scale"] is None else tuple(data["scale"])
        return cls(obs_space, data["scaling"], scale, members)


def fixed_scale(obs_space: Box, scale: Sequence[float] | None) -> Tensor:
    """The divisor of each component: `scale` where given, else the larger absolute bound where it is finite, else 1.

    Raises:
        UsageError: `scale` has the wrong length or a number that is not positive and finite.
    """
    size = int(torch.tensor(obs_space.shape).prod())
    if scale is None:
        low, high = (torch.tensor(b, dtype=torch.float32).expand(size).abs() for b in (obs_space.low, obs_space.high))
        bound = torch.maximum(low, high)
        # Some spaces state the largest float where they mean "no bound".
        divisor = torch.where((bound > 0) & (bound < 1e6), bound, torch.ones(()))
    else:
        divisor = torch.tensor(scale, dtype=torch.float32)
        if divisor.numel() != size or not bool((divisor.isfinite() & (divisor > 0)).all()):
            raise UsageError(f"obs_scale {tuple(scale)} must be {size} positive numbers, one per component.")
    return divisor.reshape(obs_space.shape)
