"""From raw observations to the features that a network reads; part of the policy, so saved, exported and frozen with
it. Exports read the same parts and scaling steps as `Preprocess.forward` and write them as operations."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from math import prod
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from rlab.errors import UsageError, unknown
from rlab.networks.bounds import FIRST, largest_bounds
from rlab.networks.images import pixel_divisor
from rlab.networks.outliers import Outliers
from rlab.networks.spaces import (
    Box,
    Discrete,
    Leaf,
    Masked,
    MultiDiscrete,
    Space,
    choices,
    feature_shape,
    leaf_features,
    leaves,
)
from rlab.types import Json

SCALINGS = ("none", "fixed", "running")
EPSILON = 1e-8  # added to the running variance, as in Stable-Baselines3's VecNormalize
CLIP = 10.0  # normalised observations are kept in +-10 (Andrychowicz et al. 2021, section 3.4)


ScalingStep = tuple[str, Any]  # an operation on the vector of features, and the tensor or number that it reads

# `centre` subtracts in float64 and rounds the difference to float32.
SCALING_OPERATIONS: Mapping[str, Callable[[Tensor, Any], Tensor]] = {
    "multiply": torch.mul,
    "subtract": torch.sub,
    "divide": torch.div,
    "centre": lambda x, mean: (x - mean).float(),
    "clip": lambda x, bound: x.clamp(-bound, bound),
}


class Preprocess(nn.Module):
    """`[S, B, *obs]`, the array form of any observation space, to float32 features.

    An image becomes its pixels, divided by the larger bound of its space, channels first. Everything else becomes one
    vector, part behind part: the numbers of a Box, integers one-hot, bits as they are, an image inside as its pixels in
    the order of the env's array. A mask is not a feature.

    Scaling is for the numbers of Boxes that are not images. `none` leaves them alone, `fixed` divides by `scale` (which
    the others do not read), `running` subtracts the mean and divides by the standard deviation of all observations that
    the member has trained on; where float32 does not hold the numbers, it subtracts in float64. A plain (unstacked) one
    has `members = None`.

    Raises:
        UsageError: the scaling is not known or does not suit the observations, or `scale` is not one divisor for each
            component.
    """

    image: Box | None  # the observation, where it is a single image
    divide: "Divide | nn.Identity"  # its pixels by their bounds
    parts: nn.ModuleList  # else: `Numbers` and `OneHot`, whose outputs one behind the other are the vector of features
    wide: bool  # whether the vector is in float64 until its mean has been subtracted

    left_alone: Tensor  # the features that are not scaled
    factor: Tensor  # fixed: one over the divisor, [S, 1, F] or [F]
    count: Tensor  # running: [S] or [], observations seen
    mean: Tensor  # running: [S, 1, F] or [F]
    variance: Tensor  # running: [S, 1, F] or [F]
    outliers: Outliers | None  # running, of a stack: rows that were left out of its statistics

    def __init__(self, obs_space: Space, scaling: str, scale: tuple[float, ...] | None, members: int | None) -> None:
        super().__init__()
        if scaling not in SCALINGS:
            raise unknown("observation scaling", scaling, SCALINGS)
        self.obs_space, self.scaling, self.scale, self.members = obs_space, scaling, scale, members
        self.feature_shape = feature_shape(obs_space)  # (C, H, W) of an image, (F,) of anything else
        inner, self._mask_size = (obs_space.obs, obs_space.size) if isinstance(obs_space, Masked) else (obs_space, 0)
        self.image = inner if isinstance(inner, Box) and inner.is_image else None
        self.divide = nn.Identity() if self.image is None else Divide([self.image], self.image.shape)
        self.wide = scaling == "running" and not narrow(inner)
        # The common case, numbers in a vector, needs nothing but a cast.
        self._plain = isinstance(obs_space, Box) and len(obs_space.shape) == 1
        self.outliers = None
        self.parts = nn.ModuleList([] if self.image else _parts(list(leaves(inner)), prod(obs_space.shape)))
        if scaling == "none":
            return
        scaled = torch.cat([torch.full((leaf_features(leaf),), _is_scaled(leaf)) for leaf in leaves(inner)])  # [F]
        if not scaled.any():
            raise UsageError(
                f"obs_scaling {scaling!r} is for vectors; images are scaled to [0, 1] in any case, and observations "
                f"{inner} hold no other numbers."
            )
        # It follows from the space, so it is not saved.
        self.register_buffer("left_alone", (~scaled).nonzero().squeeze(-1), persistent=False)
        lead = () if members is None else (members, 1)
        shape = (*lead, len(scaled))
        if scaling == "fixed":
            self.register_buffer("factor", torch.ones(shape))
            self.factor[..., scaled] = 1.0 / fixed_scale(obs_space, scale)
        if scaling == "running":
            self.register_buffer("count", torch.zeros(lead[:1], dtype=torch.float64))
            self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
            self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
            self.outliers = None if members is None else Outliers(members)

    def forward(self, obs: Tensor) -> Tensor:
        """What the network sees of `obs [..., *obs]`; the statistics are read, never changed."""
        if self.image is not None:
            return self._pixels(obs, self.image)
        x = self._vector(obs, torch.float64 if self.wide else torch.float32)
        for operation, numbers in self.scaling_steps():
            x = SCALING_OPERATIONS[operation](x, numbers)
        return x

    def scaling_steps(self) -> tuple[ScalingStep, ...]:
        """What happens to the vector of features, in order."""
        if self.scaling == "none":
            return ()
        if self.scaling == "fixed":
            return (("multiply", self.factor),)
        centring = ("centre", self.mean) if self.wide else ("subtract", self.mean.float())
        return centring, ("divide", (self.variance + EPSILON).sqrt().float()), ("clip", CLIP)

    def mask(self, obs: Tensor) -> Tensor | None:
        """Which actions `obs [..., *obs]` allow, bool `[..., size]`; None where observations carry no mask.

        A row that allows nothing counts as allowing everything: the world ended there, so that nothing is chosen.
        """
        if not self._mask_size:
            return None
        allowed = obs[..., -self._mask_size :] != 0
        return allowed | ~allowed.any(dim=-1, keepdim=True)

    @torch.no_grad()
    def observe(self, obs: np.ndarray | Tensor, valid: np.ndarray | Tensor) -> None:
        """Fold `obs [S, N, *obs]` into the running statistics where `valid [S, N]`; other scalings do nothing. Rollouts
        `[S, N, T, *obs]` with `valid [S, N, T]` are taken alike.

        Rows with an absurd number, which would decide the statistics for good, are left out: see `Outliers`. Parallel
        mean and variance of Chan, Golub and LeVeque (1983), equation 2.1, per member.
        """
        if self.scaling != "running":
            return
        # np.array: an env may hand out read-only arrays, which torch does not take
        rows = torch.as_tensor(np.array(valid) if isinstance(valid, np.ndarray) else valid, device=self.mean.device)
        raw = torch.as_tensor(np.array(obs) if isinstance(obs, np.ndarray) else obs, device=self.mean.device)
        batch = self._vector(raw, torch.float64).flatten(1, -2)  # [S, R, F]
        if self.outliers is not None:
            scaled = batch if not len(self.left_alone) else batch.index_fill(-1, self.left_alone, 0.0)
            rows = self.outliers.keep(scaled, rows, self.count, self.mean, self.variance)
            batch = batch.masked_fill(~rows.unsqueeze(-1), 0.0)
        weight = rows.double().unsqueeze(-1)  # [S, R, 1]
        count = weight.sum(dim=1, keepdim=True)  # [S, 1, 1]
        mean = (batch * weight).sum(dim=1, keepdim=True) / count.clamp(min=1.0)
        squares = ((batch - mean).square() * weight).sum(dim=1, keepdim=True)
        before = self.count.reshape(count.shape)
        total = (before + count).clamp(min=1.0)
        delta = mean - self.mean
        squares = squares + self.variance * before + delta.square() * before * count / total
        self.mean.add_(delta * count / total)
        self.variance.copy_(torch.where(count > 0, squares / total, self.variance))
        self.count.add_(count.reshape(self.count.shape))
        if len(self.left_alone):
            self.mean.index_fill_(-1, self.left_alone, 0.0)
            self.variance.index_fill_(-1, self.left_alone, 1.0)

    @torch.no_grad()
    def unstack(self, member: int) -> Self:
        """The plain preprocessing of one member, for `[*obs]` or `[B, *obs]`."""
        plain = type(self)(self.obs_space, self.scaling, self.scale, None)
        for name, buffer in self.state_dict().items():
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

    def _pixels(self, obs: Tensor, image: Box) -> Tensor:
        if self._mask_size:
            obs = obs[..., : -self._mask_size].unflatten(-1, image.shape)
        pixels: Tensor = self.divide(obs.to(torch.float32))
        return pixels if image.channels == FIRST else pixels.movedim(-1, -3)

    def _vector(self, obs: Tensor, dtype: torch.dtype) -> Tensor:
        """The features `[..., F]` before they are scaled."""
        if self._plain:
            return obs.to(dtype)
        axes = len(self.obs_space.shape)
        if axes != 1:
            obs = obs.flatten(-axes) if axes else obs.unsqueeze(-1)
        parts = [part(obs, dtype) for part in self.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Divide(nn.Module):
    """Pixels divided by the bounds of their images; bounds of 1 leave them alone."""

    divisor: Tensor  # float32: [] where it is one number for all, else [n] or the image's shape

    def __init__(self, images: Sequence[Box], shape: Sequence[int]) -> None:
        super().__init__()
        divisor = pixel_divisor(images)
        self._number = float(divisor) if divisor.ndim == 0 else None
        # It follows from the space, so it is not saved.
        found = torch.from_numpy(divisor if divisor.ndim == 0 else divisor.reshape(shape))
        self.register_buffer("divisor", found, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        if self._number is None:
            return pixels / self.divisor.to(pixels.dtype)
        return pixels if self._number == 1.0 else pixels / self._number


class Numbers(nn.Module):
    """The elements `first .. last - 1` of a vector of `size`, as they are; pixels of images are divided."""

    def __init__(self, first: int, last: int, size: int, images: Sequence[Box]) -> None:
        super().__init__()
        self.first, self.last = first, last
        self._slice = None if last - first == size else slice(first, last)
        self.divide = Divide(images, (last - first,)) if images else None

    def forward(self, obs: Tensor, dtype: torch.dtype) -> Tensor:
        numbers = (obs if self._slice is None else obs[..., self._slice]).to(dtype)
        if self.divide is None:
            return numbers
        pixels: Tensor = self.divide(numbers)
        return pixels


class OneHot(nn.Module):
    """The integers from element `first` on, one feature for each value that each of them can have."""

    element: Tensor  # [features] which one each feature looks at; [1] where all look at the same
    value: Tensor  # [features] the value for which it is 1

    def __init__(self, first: int, nvec: Sequence[int], start: Sequence[int]) -> None:
        super().__init__()
        element = torch.arange(first, first + len(nvec))
        value = torch.cat([torch.arange(least, least + n) for least, n in zip(start, nvec, strict=True)])
        if len(nvec) > 1:
            element = element.repeat_interleave(torch.tensor(nvec))
        # They follow from the space, so they are not saved.
        self.register_buffer("element", element, persistent=False)
        self.register_buffer("value", value, persistent=False)

    def forward(self, obs: Tensor, dtype: torch.dtype) -> Tensor:
        return (obs[..., self.element] == self.value).to(dtype)


def fixed_scale(obs_space: Space, scale: Sequence[float] | None) -> Tensor:
    """One divisor for each number that is scaled: `scale` where given, else the larger absolute bound where there are
    two, else 1.

    Raises:
        UsageError: `scale` has the wrong length or a number that is not positive and finite.
    """
    boxes = [leaf for leaf in leaves(obs_space) if isinstance(leaf, Box) and not leaf.is_image]
    size = sum(prod(box.shape) for box in boxes)
    if scale is None:
        found = [np.broadcast_to(largest_bounds(box.low, box.high, box.dtype), prod(box.shape)) for box in boxes]
        return torch.from_numpy(np.concatenate(found).astype(np.float32))
    divisor = torch.tensor(scale, dtype=torch.float32)
    if divisor.numel() != size or not bool((divisor.isfinite() & (divisor > 0)).all()):
        raise UsageError(f"obs_scale {tuple(scale)} must be {size} positive numbers, one per component.")
    return divisor


def _is_scaled(leaf: Leaf) -> bool:
    return isinstance(leaf, Box) and not leaf.is_image


def _parts(found: Sequence[Leaf], size: int) -> list[nn.Module]:
    """What turns the leaves of a vector of `size` elements into features, neighbours of one kind at once."""
    parts: list[nn.Module] = []
    first = 0
    for kind, group in groupby(found, _kind_of):
        alike = list(group)
        last = first + sum(prod(leaf.shape) for leaf in alike)
        if kind == "integers":
            nvec = [n for leaf in alike for n in choices(leaf)]
            parts.append(OneHot(first, nvec, [least for leaf in alike for least in _start(leaf)]))
        else:
            images = [leaf for leaf in alike if isinstance(leaf, Box)] if kind == "pixels" else []
            parts.append(Numbers(first, last, size, images))
        first = last
    return parts


def narrow(space: Space) -> bool:
    """Whether float32 holds all numbers that may be scaled as exactly as their dtype does."""
    for leaf in leaves(space):
        if _is_scaled(leaf) and leaf.dtype in ("float64", "int32", "uint32", "int64", "uint64"):
            assert isinstance(leaf, Box)
            whole = leaf.dtype != "float64"
            if not (whole and np.abs([np.min(leaf.low), np.max(leaf.high)]).max() <= 2**24):
                return False
    return True


def _start(leaf: Leaf) -> tuple[int, ...]:
    return leaf.start if isinstance(leaf, MultiDiscrete) else (leaf.start,) if isinstance(leaf, Discrete) else ()


def _kind_of(leaf: Leaf) -> str:
    """What becomes of a leaf of a vector: `integers` are one-hot, `pixels` divided, `numbers` may be scaled."""
    if isinstance(leaf, Discrete | MultiDiscrete):
        return "integers"
    return "pixels" if isinstance(leaf, Box) and leaf.is_image else "numbers"
