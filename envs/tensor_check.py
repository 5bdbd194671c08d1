"""`check_tensor_env`: a tensor env steps as its Gymnasium env does, transition by transition."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from rlab.envs.callables import EnvLike, env_spec
from rlab.envs.episodes import time_limit_of
from rlab.envs.make import make_env
from rlab.envs.obs_packing import layers
from rlab.envs.sub_env import SubEnv
from rlab.envs.tensor_env import EnvState, TensorEnv
from rlab.envs.tensor_rounding import Fields, Tensors, largest_differences
from rlab.errors import RlabError
from rlab.networks.spaces import Box, Discrete, Masked, MultiDiscrete, Space, choices
from rlab.places import one_line

EPISODE = 100  # steps of random play from one reset; episodes that end earlier begin anew
RESETS = 100
NOISE = "u"
BELOW_1 = 1 - 2**-24  # the largest uniform number


@dataclass(frozen=True)
class TensorCheck:
    """What was compared and found equal. `worst` is by field: the largest difference as a share of what rounding
    explains."""

    transitions: int
    terminated: int  # how many of them ended an episode
    worst: dict[str, float]


def check_tensor_env(
    env: TensorEnv,
    gym_env: EnvLike,
    transitions: int = 1000,
    states: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> TensorCheck:
    """Compare a tensor env with its Gymnasium env: spaces, resets, and every field of many transitions.

    Both are put into the same state, by `set_state`, and given the same action and the same random numbers, by
    `give_noise`. State, observation, reward and both endings must be equal but for rounding: a result may differ as
    much as the results of states a few units in the last place away, and `terminated` only where theirs does.

    Args:
        gym_env: an id, a class or function that makes the env, or an `EnvSpec`.
        states: where the transitions start, `[transitions, *field]` each; None: states that random play visits.
        dtype: of the state of steps. Where Gymnasium computes in float64, float64 compares the formulas to 16 digits.
        seed: of the states, actions and random numbers.

    Raises:
        RlabError: something differs, named with the state, the action and both values; or `step` changes its arguments
            or cannot run in a compiled program.
    """
    spec = env_spec(gym_env)
    sub_env = make_env(spec)
    pair = _Pair(env, sub_env, f"{type(env).__name__} and {spec.env_id}", torch.Generator().manual_seed(seed), dtype)
    try:
        with torch.no_grad():
            pair.check_spaces()
            pair.check_functions()
            worst = {f"reset {field}": share for field, share in pair.check_resets().items()}
            start = pair.played(transitions) if states is None else dict(states)
            terminated, of_steps = pair.check_steps(start)
    finally:
        sub_env.close()
    return TensorCheck(len(next(iter(start.values()))), terminated, {**worst, **of_steps})


@dataclass(frozen=True)
class _Pair:
    """A tensor env and its Gymnasium env."""

    env: TensorEnv
    sub_env: SubEnv
    name: str
    generator: torch.Generator
    dtype: torch.dtype

    def check_spaces(self) -> None:
        packing, limit = self.sub_env.packing, time_limit_of(self.sub_env)
        compared: list[tuple[str, Any, Any]] = [
            ("observation space", self.env.obs_space, packing.obs_space),
            ("action space", self.env.action_space, packing.action_space),
            ("time limit", self.env.time_limit or limit, limit or self.env.time_limit),
        ]
        for what, here, there in compared:
            if here != there:
                raise RlabError(f"{self.name} differ in the {what}: {here!r} here, {there!r} in Gymnasium")

    def check_functions(self) -> None:
        """A step leaves its arguments alone, gives what it should, and runs with tensors that have no numbers."""
        env, name = self.env, type(self.env).__name__
        state = env.reset(self.noise(2, env.reset_uniforms))
        before = {field: value.clone() for field, value in state.items()}
        action, u = self.actions(state), self.noise(2, env.step_uniforms)
        after, reward, terminated = env.step(state, action, u)
        for field, value in state.items():
            if not torch.equal(value, before[field]):
                raise RlabError(f"{name}.step changes the state {field!r} that it is given; it must make a new tensor")
        obs = env.obs(after)
        lead, space = (2,), env.obs_space
        given: list[tuple[str, Tensor | None, tuple[int, ...], torch.dtype]] = [
            ("observation", obs, lead + space.shape, getattr(torch, space.dtype)),
            ("reward", reward, lead, torch.float32),
            ("terminated", terminated, lead, torch.bool),
            *((f"state {field!r}", after.get(field), value.shape, value.dtype) for field, value in state.items()),
        ]
        for what, result, shape, dtype in given:
            if result is None or result.shape != shape or result.dtype != dtype:
                found = "nothing" if result is None else f"{result.dtype} {list(result.shape)}"
                raise RlabError(f"{name}.step gives as {what} {found} for 2 envs; expected {dtype} {list(shape)}")
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        fake_state, fake_action, fake_u = tree_map(mode.from_tensor, (state, action, u))
        fresh = mode.from_tensor(self.noise(2, env.reset_uniforms))
        try:
            with mode:
                env.obs(env.step(fake_state, fake_action, fake_u)[0])
                env.reset(fresh)
        except Exception as error:  # of the env's own code, or of torch about it
            raise RlabError(
                f"{name} cannot run in a compiled program, where tensors have no numbers to look at: {one_line(error)}"
            ) from error

    def check_resets(self) -> dict[str, float]:
        """Resets from the same random numbers are equal."""
        base, u = self.sub_env.unwrapped, self.noise(RESETS, self.env.reset_uniforms)

        def reset(inputs: Tensors) -> EnvState:
            state = self.env.reset(inputs[NOISE].clamp(0, BELOW_1))
            return {**_state_fields(state), "obs": self.env.obs(state)}

        def in_gymnasium(row: int) -> dict[str, Any]:
            self.env.give_noise(base, u[row].numpy())
            obs, _ = self.sub_env.reset()
            return {**_state_fields(self.env.state_of(base)), "obs": obs}

        return self.compare("reset", reset, {NOISE: u}, in_gymnasium, {NOISE: u})

    def check_steps(self, start: EnvState) -> tuple[int, dict[str, float]]:
        """Steps from these states with random actions are equal; how many terminated, and the differences."""
        env, base = self.env, self.sub_env.unwrapped
        state = {field: v.to(self.dtype) if v.is_floating_point() else v for field, v in start.items()}
        action = self.actions(start)
        u = self.noise(len(action), env.step_uniforms).to(self.dtype)
        lent, taken = {field: value.numpy() for field, value in state.items()}, as_taken(env.action_space, action)
        limits = [layer for layer in layers(self.sub_env) if isinstance(layer, gym.wrappers.TimeLimit)]
        ended: list[bool] = []

        def step(inputs: Tensors) -> EnvState:
            moved = {field: inputs[field] for field in state}
            after, reward, terminated = env.step(moved, action, inputs[NOISE].clamp(0, BELOW_1))
            truncated = torch.full_like(terminated, env.time_limit == 1) & ~terminated
            rest = {"obs": env.obs(after), "reward": reward, "terminated": terminated, "truncated": truncated}
            return {**_state_fields(after), **rest}

        def in_gymnasium(row: int) -> dict[str, Any]:
            env.set_state(base, {field: value[row] for field, value in lent.items()})
            env.give_noise(base, u[row].numpy())
            for limit in limits:
                limit._elapsed_steps = 0  # type: ignore[assignment]  # Gymnasium has no public attribute for it
            obs, reward, terminated, truncated, _ = self.sub_env.step(taken[row])
            ended.append(terminated)
            rest = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated and not terminated}
            return {**_state_fields(env.state_of(base)), **rest}

        named = {**_state_fields(state), "action": torch.from_numpy(taken), NOISE: u}
        worst = self.compare("step", step, {**state, NOISE: u}, in_gymnasium, named)
        return sum(ended), worst

    def compare(
        self,
        what: str,
        function: Callable[[Tensors], Tensors],
        inputs: Tensors,
        in_gymnasium: Callable[[int], dict[str, Any]],
        named: Tensors,
    ) -> dict[str, float]:
        """By field the largest difference between `function` of all rows and Gymnasium's result of each row."""
        rows = [in_gymnasium(row) for row in range(len(next(iter(inputs.values()))))]
        expected: Fields = {field: np.stack([np.asarray(row[field], np.float64) for row in rows]) for field in rows[0]}
        obs_dtype = getattr(torch, self.env.obs_space.dtype)
        worst, apart = largest_differences(function, inputs, expected, {"obs": obs_dtype})
        if apart is not None:
            at = ", ".join(f"{key} {value[apart.row].tolist()}" for key, value in named.items() if value[0].numel())
            raise RlabError(
                f"{self.name} differ in a {what}: {apart.field} is {apart.here!r} here and {apart.there!r} in "
                f"Gymnasium, at {at} (rounding explains {apart.allowed:.2g})"
            )
        return worst

    def noise(self, rows: int, uniforms: int) -> Tensor:
        """`[rows, uniforms]` in [0, 1), with the 24 bits of float32."""
        return torch.rand(rows, uniforms, generator=self.generator)

    def played(self, transitions: int) -> EnvState:
        """States that random actions visit, `[transitions, *field]`."""
        env, rows = self.env, max(1, transitions // EPISODE)
        state = env.reset(self.noise(rows, env.reset_uniforms))
        visited: list[EnvState] = []
        for _ in range(-(-transitions // rows)):
            visited.append(state)
            after, _, terminated = env.step(state, self.actions(state), self.noise(rows, env.step_uniforms))
            fresh, ended = env.reset(self.noise(rows, env.reset_uniforms)), terminated.nonzero().flatten()
            state = {field: value.index_copy(0, ended, fresh[field][ended]) for field, value in after.items()}
        return {field: torch.cat([each[field] for each in visited])[:transitions] for field in state}

    def actions(self, state: EnvState) -> Tensor:
        """An action for each row of a state, among those that its mask allows; integers count from 0."""
        space, obs = self.env.action_space, self.env.obs(state)
        n = len(obs)
        if isinstance(space, Box):
            low, high = (torch.tensor(bound).expand(space.shape) for bound in (space.low, space.high))
            low, high = low.clamp(min=-1e6), high.clamp(max=1e6)
            numbers = low + (high - low) * torch.rand(n, *space.shape, generator=self.generator)
            return numbers.to(getattr(torch, space.dtype))
        sizes = choices(space) or (2,) * int(np.prod(space.shape))  # a bit is one of two
        chance = torch.rand(n, sum(sizes), generator=self.generator)
        if isinstance(self.env.obs_space, Masked):
            chance = chance + obs[..., -self.env.obs_space.size :].float()  # what is allowed comes first
        return torch.stack([each.argmax(-1) for each in chance.split(sizes, -1)], -1).reshape(n, *space.shape)


def as_taken(space: Space, action: Tensor) -> np.ndarray:
    """Actions that count from 0 as Gymnasium's env takes them, `[n, *action]`."""
    array = action.numpy()
    if isinstance(space, Discrete | MultiDiscrete):
        array = array + np.array(space.start).reshape(space.shape)
    return array.astype(space.dtype)


def _state_fields(state: Mapping[str, Any]) -> dict[str, Any]:
    return {f"state {field}": value for field, value in state.items()}
