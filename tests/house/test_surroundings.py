"""What the program around rlab has set changes nothing that rlab computes, and is as it was afterwards."""

import contextlib
import os
import random
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab
from rlab import supervised
from rlab.learning.runtime import own_surroundings

pytestmark = pytest.mark.usefixtures("quick_disk", "few_visits", "registered_here")
SMALL = {"env_steps": 256, "num_envs": 4, "rollout_steps": 32, "eval_every": 128, "eval_episodes": 2}


def everything(folder: Path) -> dict[str, bytes]:
    """Every verb in a small size, and what came out of it, as bytes."""
    found: dict[str, bytes] = {}

    def keep(name: str, *paths: Path) -> None:
        for path in paths:
            found[f"{name}: {path.name}"] = path.read_bytes()

    run = rlab.train("ppo", "CartPole-v1", seeds=2, out=folder / "run", final_eval_episodes=2, hidden=(8, 8), **SMALL)
    keep("train", run.path / "metrics.jsonl", run.path / "eval.jsonl", *run.path.glob("policy/*.safetensors"))
    found["eval"] = rlab.evaluate(run.path, episodes=3).returns.tobytes()
    policy = rlab.load(run.path, seed=1)
    obs = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
    found["policy"] = policy(obs).tobytes() + policy(obs, greedy=False).tobytes()
    found["outputs"] = policy.outputs(torch.from_numpy(obs)).detach().numpy().tobytes()
    rlab.collect(run.path, folder / "data", episodes=2)
    cloned = rlab.pretrain("bc", folder / "data", out=folder / "bc", updates=4, final_eval_episodes=0, hidden=(8, 8))
    keep("pretrain", *cloned.path.glob("policy/*.safetensors"))
    tuned = rlab.finetune(cloned.path, out=folder / "tuned", final_eval_episodes=0, **SMALL)
    keep("finetune", *tuned.path.glob("policy/*.safetensors"))
    small = rlab.compress(run.path, "distil:4", out=folder / "small", member=0, episodes=2, updates=2)
    keep("compress", *small.path.glob("*.safetensors"))
    keep("export", rlab.export(run.path, "numpy", out=folder / "policy.npz").path)
    network = supervised.vector_network(4, 2, (8,), dropout=0.1)
    settings = supervised.SupervisedSettings(epochs=2)
    fitted = supervised.fit(network, obs, np.arange(5) % 2, settings, seeds=(0, 1))
    found["fit"] = fitted.outputs(obs).tobytes()
    return found


@contextlib.contextmanager
def odd_program():
    """All that a program may have set; its own settings are checked at the end, and put back."""
    threads, flags = torch.get_num_threads(), np.geterr()
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    np.seterr(all="raise")
    try:
        with np.printoptions(precision=1, threshold=2):
            yield
        assert torch.get_default_dtype() is torch.float64
        assert not torch.is_grad_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 2
        assert set(np.geterr().values()) == {"raise"}
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
        np.seterr(**flags)


def test_global_settings_of_torch_and_numpy_change_no_byte_and_stay_as_they_were(tmp_path):
    usual = everything(tmp_path / "usual")
    with odd_program():
        odd = everything(tmp_path / "odd")
    assert sorted(odd) == sorted(usual)
    assert [name for name in usual if odd[name] != usual[name]] == []


@contextlib.contextmanager
def default_device(name: str):
    torch.set_default_device(name)
    try:
        yield
        assert torch.get_default_device().type == name
    finally:
        torch.set_default_device(None)


def test_another_default_device_and_inference_mode_change_no_byte(tmp_path):
    programs = contextlib.nullcontext(), default_device("meta"), torch.device("meta"), torch.inference_mode()
    found = []
    for number, program in enumerate(programs):
        with program:
            folder = rlab.train("a2c", "CartPole-v1", out=tmp_path / str(number), final_eval_episodes=0, **SMALL).path
            action = rlab.load(folder)(np.zeros(4, np.float32))
        found.append(({path.name for path in folder.glob("policy/*.safetensors")}, action))
    assert found[1:] == found[:1] * 3  # the name is the checksum


def drawn() -> list[float]:
    """The next numbers of the program's own global generators."""
    return [np.random.standard_normal(), random.random(), float(torch.rand(()))]


def test_global_generators_go_on_as_if_nothing_had_been_trained(tmp_path):
    np.random.seed(3)
    random.seed(3)
    torch.manual_seed(3)
    drawn()  # the second half of a pair of normal numbers is waiting
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    expected = drawn()
    np.random.set_state(states[0])
    random.setstate(states[1])
    torch.set_rng_state(states[2])
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", env_steps=64, experiment="none", final_eval_episodes=1)
    rlab.load(run.path)(np.zeros(4, np.float32), greedy=False, epsilon=0.5)
    rlab.evaluate(run.path, episodes=1)
    assert drawn() == expected


def test_two_blocks_in_threads_put_back_what_was_there_before_the_first():
    torch.set_default_dtype(torch.float64)
    try:
        first, second = own_surroundings(None), own_surroundings(None)
        with contextlib.ExitStack() as outer:
            first.__enter__()
            outer.enter_context(second)
            first.__exit__(None, None, None)  # the first to begin ends first
            assert torch.get_default_dtype() is torch.float32
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


class Wanderer(gym.Env):
    """Goes to another folder whenever it is made, reset or stepped; three steps an episode."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    places: tuple[str, str] = ("", "")

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        os.chdir(self.places[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        os.chdir(self.places[1])
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        os.chdir(self.places[0])
        self.t += 1
        return np.zeros(2, np.float32), 1.0, self.t == 3, False, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)


@pytest.fixture
def wanderer(tmp_path, monkeypatch):
    places = tmp_path / "here", tmp_path / "there"
    for place in (*places, tmp_path / "home"):
        place.mkdir()
    monkeypatch.setattr(Wanderer, "places", tuple(map(str, places)))
    monkeypatch.chdir(tmp_path / "home")
    gym.register("rlab-test/Wanderer-v0", Wanderer)
    yield "rlab-test/Wanderer-v0"
    del gym.registry["rlab-test/Wanderer-v0"]


def test_an_env_that_changes_the_working_folder_moves_no_file(wanderer, tmp_path, monkeypatch):
    home = tmp_path / "home"
    run = rlab.train("ppo", wanderer, out="run", final_eval_episodes=2, **SMALL)
    assert Path.cwd() == home
    assert run.path == home / "run"
    assert "run: run   curves: tensorboard --logdir run" in run.report()
    again = rlab.train("ppo", wanderer, final_eval_episodes=0, **SMALL)  # the default place
    assert again.path.parent == home / "runs"
    assert f"run: runs/{again.path.name} " in again.report()
    (run.path / "result.json").unlink()
    assert rlab.api.resume("run").evaluation.returns.tolist() == [[3.0, 3.0]]
    rlab.finetune("run", out="tuned", final_eval_episodes=1, **SMALL)
    assert rlab.collect("run", "data", episodes=2).path == Path("data")
    rlab.collect_random(wanderer, "random", episodes=2)
    rlab.pretrain("bc", "data", out="cloned", updates=2, final_eval_episodes=1)
    rlab.compress("run", "distil:4", out="small", episodes=2, updates=2)
    assert rlab.export("run", "numpy", out="policy.npz").path == Path("policy.npz")
    assert rlab.play("run", video="film.gif").returns == (3.0,)
    assert rlab.evaluate("run", episodes=2).returns.tolist() == [[3.0, 3.0]]
    made = {"run", "runs", "tuned", "data", "random", "cloned", "small", "policy.npz", "film.gif"}
    assert {path.name for path in home.iterdir()} == made
    assert [*(tmp_path / "here").iterdir(), *(tmp_path / "there").iterdir()] == []
    assert {path.name for path in (home / "run").iterdir()} >= {"policy", "metrics.jsonl", "result.json"}
