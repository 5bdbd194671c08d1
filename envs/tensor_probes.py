"""The probe worlds of `probe.py` and `probe_spaces.py` as tensor envs, each under the name of its Gymnasium env."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rlab.envs import probe, probe_spaces
from rlab.envs.tensor_env import EnvState, TensorEnv
from rlab.networks.spaces import Masked


class _World(TensorEnv):
    """The state is `x`, the number that is observed."""

    world: ClassVar[type[probe.World]]

    def __init__(self) -> None:
        super().__init__(self.world())

    def reset(self, u: Tensor) -> EnvState:
        return {"x": u.new_zeros(u.shape[:-1])}

    def obs(self, state: EnvState) -> Tensor:
        return state["x"].unsqueeze(-1)

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"x": gym_env.x}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.x = int(state["x"])
        gym_env.t = abs(gym_env.x)  # in the worlds of two steps the second begins at -1 or 1


class _Tossed(_World):
    """Begins at -1 or 1."""

    reset_uniforms = 1

    def reset(self, u: Tensor) -> EnvState:
        return {"x": _tossed(u[..., 0])}


class ProbeConstant(_World):
    world = probe.ProbeConstant

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        return state, torch.ones_like(state["x"]), _always(state)


class ProbeObservation(_Tossed):
    world = probe.ProbeObservation

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        return state, state["x"], _always(state)


class ProbeDelayed(_World):
    world = probe.ProbeDelayed

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        return {"x": torch.ones_like(state["x"])}, state["x"], state["x"] == 1


class ProbeAction(_World):
    world = probe.ProbeAction

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        return state, _side(action), _always(state)


class ProbeActionObservation(_Tossed):
    world = probe.ProbeActionObservation

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        return state, _side(action) * state["x"], _always(state)


class ProbeEndless(_World):
    world = probe.ProbeEndless
    time_limit = 3

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        return state, torch.ones_like(state["x"]), ~_always(state)

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.x = gym_env.t = 0


class ProbeCredit(_World):
    world = probe.ProbeCredit

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        x, second = state["x"], state["x"] != 0
        return {"x": torch.where(second, x, _side(action))}, x, second


class ProbeMemory(_World):
    world = probe.ProbeMemory
    reset_uniforms = 1

    def __init__(self, delay: int = 2) -> None:
        super().__init__()
        self.delay = self.world(delay).delay  # a number that is allowed

    def reset(self, u: Tensor) -> EnvState:
        cue = _tossed(u[..., 0])
        return {"x": cue, "cue": cue, "t": torch.zeros_like(cue)}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        t = state["t"] + 1
        last = t > self.delay
        after = {"x": torch.zeros_like(t), "cue": state["cue"], "t": t}
        return after, torch.where(last, _side(action) * state["cue"], 0.0), last

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"x": gym_env.x, "cue": gym_env.cue, "t": gym_env.t}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.x, gym_env.cue, gym_env.t = (int(state[field]) for field in ("x", "cue", "t"))


class ProbeMasked(_World):
    world = probe_spaces.ProbeMasked

    def __init__(self) -> None:
        super().__init__()
        world, places = probe_spaces.ProbeMasked, (-1, 0, 1)
        self.paid = torch.tensor([world.PAID[x] for x in places])
        self.allowed = torch.tensor([world.ALLOWED[x] for x in places], dtype=torch.float32)
        self.obs_space = Masked(self.obs_space, self.paid.shape[-1])

    def reset(self, u: Tensor) -> EnvState:
        x = u.new_zeros(u.shape[:-1])
        return {"x": x, "over": x != 0}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        x, second = state["x"], state["x"] != 0
        reward = self.paid[x.long() + 1, action]
        return {"x": torch.where(second, x, torch.where(action == 1, 1.0, -1.0)), "over": second}, reward, second

    def obs(self, state: EnvState) -> Tensor:
        x = state["x"]
        mask = self.allowed[x.long() + 1].masked_fill(state["over"].unsqueeze(-1), 0.0)
        return torch.cat((x.unsqueeze(-1), mask), -1)

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"x": gym_env.x, "over": gym_env.over}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.x, gym_env.over = int(state["x"]), bool(state["over"])


class ProbeContinuous(_Tossed):
    world = probe_spaces.ProbeContinuous

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        return state, 1.0 - (action[..., 0] - state["x"]).square(), _always(state)


class ProbeBoxEndless(ProbeEndless):
    world = probe_spaces.ProbeBoxEndless


class ProbeBoxCredit(_World):
    world = probe_spaces.ProbeBoxCredit

    def reset(self, u: Tensor) -> EnvState:
        return {"x": u.new_zeros(u.shape[:-1]), "t": u.new_zeros(u.shape[:-1])}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        x, second = state["x"], state["t"] == 1
        paid = 1.0 - 2.0 * (action[..., 0] - 2.0).square() / 9.0
        return {"x": torch.where(second, x, paid), "t": state["t"] + 1}, torch.where(second, x, 0.0), second

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"x": gym_env.paid, "t": gym_env.t}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.paid, gym_env.t = float(state["x"]), int(state["t"])


class _Choices(_Tossed):
    """One step; each of several choices pays where it is the right one of this `x`."""

    paid: ClassVar[tuple[float, ...]]
    right: ClassVar[Mapping[int, tuple[int, ...]]]  # counted from 0

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.tensor([self.right[-1], self.right[1]])
        self.share = torch.tensor(self.paid)

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        right = action == self.table[(state["x"] > 0).long()]
        return state, self.pay(right), _always(state)

    def pay(self, right: Tensor) -> Tensor:
        return (right * self.share).sum(-1)


class ProbeMultiDiscrete(_Choices):
    world = probe_spaces.ProbeMultiDiscrete
    paid = (1.0, 0.5)
    right: ClassVar[Mapping[int, tuple[int, ...]]] = {
        x: tuple(int(number) for number in np.subtract(right, probe_spaces.ProbeMultiDiscrete.action_space.start))
        for x, right in probe_spaces.ProbeMultiDiscrete.RIGHT.items()
    }


class ProbeMultiBinary(_Choices):
    world = probe_spaces.ProbeMultiBinary
    paid = (2.0, 2.0)  # of 1 for a right bit, and -1 for a wrong one
    right = probe_spaces.ProbeMultiBinary.RIGHT

    def pay(self, right: Tensor) -> Tensor:
        return super().pay(right) - 2.0


class ProbeDiscreteObservation(_World):
    world = probe_spaces.ProbeDiscreteObservation
    reset_uniforms = 1

    def __init__(self) -> None:
        super().__init__()
        self.paid = torch.tensor([probe_spaces.ProbeDiscreteObservation.PAID[x] for x in (-1, 0, 1)])

    def reset(self, u: Tensor) -> EnvState:
        return {"x": (u[..., 0] * 3).long() - 1}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        return state, self.paid[state["x"] + 1], _always(state)

    def obs(self, state: EnvState) -> Tensor:
        return state["x"]


class ProbeDictObservation(_World):
    world = probe_spaces.ProbeDictObservation
    reset_uniforms = 2

    def reset(self, u: Tensor) -> EnvState:
        return {"x": _tossed(u[..., 0]), "switch": (u[..., 1] >= 0.5).float()}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        return state, torch.where(state["switch"] == action, state["x"], -state["x"]), _always(state)

    def obs(self, state: EnvState) -> Tensor:
        return torch.stack((state["x"], state["switch"]), -1)

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"x": gym_env.x, "switch": gym_env.switch}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.x, gym_env.switch = int(state["x"]), int(state["switch"])


def _tossed(u: Tensor) -> Tensor:
    """-1 or 1 with equal chance."""
    return torch.where(u < 0.5, -1.0, 1.0)


def _side(action: Tensor) -> Tensor:
    """1 for action 1, -1 for action 0."""
    return torch.where(action == 1, 1.0, -1.0)


def _always(state: EnvState) -> Tensor:
    return torch.ones_like(state["x"], dtype=torch.bool)
