"""The border between envs on the host and an agent's device: arrays cross it once each way per vector step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.experience.dtypes import torch_dtype
from rlab.experience.env_contract import Step, VectorEnv

ALIGNED = 16  # bytes: every array of a crossing begins at a multiple, so that its view has any dtype


class HostEnv:
    """Envs on the host as a `DeviceEnv`. They are in a slot, which no program looks into: they may have threads."""

    __slots__ = ("__dict__", "env")
    on_host = True

    def __init__(self, env: VectorEnv, device: torch.device) -> None:
        self.env, self.device = env, device
        self.obs_space, self.action_space = env.obs_space, env.action_space
        self.seeds, self.num_envs, self.time_limit = env.seeds, env.num_envs, env.time_limit
        self.has_reset_rows = env.has_reset_rows
        self._crossing = Crossing(device)
        self._suspended: dict[str, Any] | None = None  # the state of envs that are closed
        self._all_valid = torch.ones(len(env.seeds), env.num_envs, dtype=torch.bool, device=device)

    def reset(self) -> Tensor:
        """Start every env; observations `[S, N, *obs]`."""
        return self._crossing([self.env.reset()])[0]

    def step(self, action: Tensor) -> Step:
        """Apply actions; what came of them, on the device."""
        found = self.env.step(action.cpu().numpy())
        hidden = not (found.none_ended or np.may_share_memory(found.next_obs, found.obs))
        arrays = [found.obs, found.reward, found.terminated, found.truncated]
        arrays += [] if found.all_valid else [found.valid]
        arrays += [] if found.life_lost is None else [found.life_lost]
        arrays += [found.next_obs] if hidden else []
        obs, reward, terminated, truncated, *rest = self._crossing(arrays)
        return Step(
            obs,
            rest[-1] if hidden else obs,
            reward,
            terminated,
            truncated,
            self._all_valid if found.all_valid else rest[0],
            found.all_valid,
            found.none_ended,
            found.faults,
            found.cuts,
            None if found.life_lost is None else rest[-2 if hidden else -1],
        )

    @property
    def restarts(self) -> np.ndarray | None:
        """As of `DeviceEnv`."""
        return self.env.restarts

    def state(self) -> dict[str, Any]:
        return self.env.state() if self._suspended is None else self._suspended

    def load_state(self, state: Mapping[str, Any]) -> str | None:
        return self.env.load_state(state)

    def suspend(self) -> None:
        """Close the envs, and keep the state that they had."""
        if self._suspended is None:
            self._suspended = self.env.state()
        self.env.close()

    def close(self) -> None:
        self.env.close()


class Crossing:
    """Copies arrays to a device in one transfer; on the CPU the tensors have memory of their own, too."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._staged = torch.empty(0, dtype=torch.uint8)  # page-locked, so that the copy need not stage it again
        self._crossed: torch.cuda.Event | None = None  # when the last copy out of that memory has ended

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[Tensor]:
        """The arrays as tensors on the device."""
        if self._device.type == "cpu":
            return [torch.from_numpy(array.copy()) for array in arrays]
        if self._crossed is None:
            self._crossed = torch.cuda.Event()
        self._crossed.synchronize()
        starts = starts_of(arrays)
        if len(self._staged) < starts[-1]:
            self._staged = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=True)
        pack(arrays, starts, self._staged.numpy())
        there = self._staged[: starts[-1]].to(self._device, non_blocking=True)
        self._crossed.record()
        return unpack(there, starts, arrays)


def starts_of(arrays: Sequence[np.ndarray]) -> list[int]:
    """Where each array begins in bytes that take all of them, and how many those are."""
    sizes = [-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays]
    return [sum(sizes[:i]) for i in range(len(sizes) + 1)]


def pack(arrays: Sequence[np.ndarray], starts: Sequence[int], into: np.ndarray) -> None:
    """Write the arrays into bytes."""
    for start, array in zip(starts, arrays, strict=False):
        into[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def unpack(there: Tensor, starts: Sequence[int], like: Sequence[np.ndarray]) -> list[Tensor]:
    """Views of bytes that were packed, with the dtypes and shapes of the arrays `like`."""
    return [
        there[start : start + array.nbytes].view(torch_dtype(array.dtype.name)).view(array.shape)
        for start, array in zip(starts, like, strict=False)
    ]
