"""Env steps a second of bare tensor envs, 8 192 of them, eager and compiled, beside Gymnasium's and gymnax's.

64 members of 128 envs each; the actions are drawn in advance. On the CPU one thread; a GPU, where there is one, also
replays compiled steps in a CUDA graph. Beside them Gymnasium's own native CartPole, one env of Gymnasium's for each
tensor env, and gymnax's CartPole where gymnax is installed, compiled as one loop.

    python -m rlab.experiments.benchmarks.tensor_envs
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import torch

from rlab.envs import EnvSpec, TensorVectorEnv, tensor_env_of
from rlab.experiments.benchmarks.timing import ROUNDS, in_turn, record

ENVS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "FrozenLake-v1")
MEMBERS, NUM_ENVS = 64, 128
STEPS = 64  # vector steps in one round

Timed = tuple[Callable[[], Any], int]  # what a round calls, and the env steps that this makes


def tensor_steps(env_id: str, device: str, members: int, num_envs: int, steps: int) -> tuple[Any, torch.Tensor]:
    """A function of an action that makes one vector step, and actions `[steps, members, num_envs, ...]` for it."""
    env = TensorVectorEnv(tensor_env_of(EnvSpec(env_id)), range(members), num_envs, device)
    env.reset()
    generator = torch.Generator().manual_seed(0)
    shape = (steps, members, num_envs, *env.action_space.shape)
    if env.action_space.kind == "box":
        actions = torch.rand(shape, generator=generator) * 2 - 1
    else:
        actions = torch.randint(2, shape, generator=generator)

    def step(action: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = env.step(action)
        return result.obs, result.next_obs, result.reward, result.terminated, result.truncated

    return step, actions.to(device)


def called(step: Any, actions: torch.Tensor) -> Callable[[], None]:
    """All the steps, and on a GPU their end."""

    def run() -> None:
        for action in actions:
            step(action)
        if actions.is_cuda:
            torch.cuda.synchronize()

    return run


def captured(step: Any, actions: torch.Tensor) -> Callable[[], None]:
    """All the steps in one CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for action in actions[:3]:
            step(action)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for action in actions:
            step(action)

    def run() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return run


def gymnasium_native(num_envs: int, steps: int) -> Callable[[], None]:
    """Gymnasium's vector CartPole in NumPy."""
    env = gym.make_vec("CartPole-v1", num_envs, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(steps)]

    def run() -> None:
        for action in actions:
            env.step(action)

    return run


def gymnasium_single(env_id: str, steps: int) -> Callable[[], None]:
    """One env of Gymnasium's, in Python."""
    env = gym.make(env_id)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(steps)]

    def run() -> None:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return run


def gymnax_cartpole(num_envs: int, steps: int) -> Callable[[], None]:
    """gymnax's CartPole, which resets itself, in one compiled loop on JAX's own choice of device."""
    import gymnax
    import jax

    env, params = gymnax.make("CartPole-v1")
    keys = jax.random.split(jax.random.key(0), num_envs)
    _, state = jax.vmap(env.reset, (0, None))(keys, params)
    actions = jax.random.randint(jax.random.key(1), (steps, num_envs), 0, 2)

    @jax.jit
    def loop(state: Any, keys: Any) -> Any:
        def step(carry: Any, action: Any) -> Any:
            state, keys = carry
            keys = jax.vmap(lambda key: jax.random.split(key, 1)[0])(keys)
            obs, state, reward, *_ = jax.vmap(env.step, (0, 0, 0, None))(keys, state, action, params)
            return (state, keys), (obs.sum(), reward.sum())

        return jax.lax.scan(step, (state, keys), actions)

    return lambda: jax.block_until_ready(loop(state, keys))


def measure(
    env_ids: Sequence[str] = ENVS,
    members: int = MEMBERS,
    num_envs: int = NUM_ENVS,
    steps: int = STEPS,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Env steps a second of each thing, the median over rounds, and the seconds of compiling."""
    total = members * num_envs
    torch._dynamo.config.recompile_limit = 64  # versions of `step`: one for each env and device
    timed: dict[str, Timed] = {}
    compiling: dict[str, float] = {}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for env_id in env_ids:
            size = (env_id, device, members, num_envs, steps)
            timed[f"{env_id}, {device}, eager"] = called(*tensor_steps(*size)), total * steps
            step, actions = tensor_steps(*size)
            step = torch.compile(step, fullgraph=True)
            began = time.perf_counter()
            called(step, actions[:1])()
            compiling[f"{env_id}, {device}"] = time.perf_counter() - began
            timed[f"{env_id}, {device}, compiled"] = called(step, actions), total * steps
            if device == "cuda":
                timed[f"{env_id}, {device}, captured"] = captured(step, actions), total * steps
    for env_id in env_ids:
        timed[f"{env_id}, one env of Gymnasium's"] = gymnasium_single(env_id, steps * 16), steps * 16
    timed["CartPole-v1, Gymnasium's native env"] = gymnasium_native(total, steps), total * steps
    if importlib.util.find_spec("gymnax") is not None:
        timed["CartPole-v1, gymnax"] = gymnax_cartpole(total, steps), total * steps
    for run, _ in timed.values():
        run()  # first calls
    seconds = in_turn({name: run for name, (run, _) in timed.items()}, rounds)
    rates = {name: timed[name][1] / statistics.median(values) for name, values in seconds.items()}
    return {"env_steps_per_second": rates, "seconds_of_compiling": compiling, "seconds": seconds}


def main() -> None:
    """Time in turn, print, record."""
    torch.set_num_threads(1)
    measured = measure()
    for name, rate in measured["env_steps_per_second"].items():
        print(f"{rate / 1e6:8.3f} million env steps/s  {name}")
    for name, seconds in measured["seconds_of_compiling"].items():
        print(f"{seconds:8.1f} s of compiling  {name}")
    record(__file__, {"num_envs": MEMBERS * NUM_ENVS, **measured})


if __name__ == "__main__":
    main()
