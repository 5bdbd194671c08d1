"""Atari games as rlab plays them, where ale-py is installed."""

import numpy as np
import pytest
import torch

from rlab.envs import EnvSpec, atari_notes, make_env, make_vec
from rlab.envs.atari import ATARI_FRAMES, ATARI_KEYWORDS
from rlab.envs.ids import ALE, ON_DEMAND
from rlab.errors import UsageError
from rlab.experience import fields
from rlab.experience.fields import Field, storage_nbytes
from rlab.experience.observations import kept_fields
from rlab.networks.bounds import FIRST
from rlab.networks.spaces import Box

ALE_PY = ON_DEMAND[ALE]
needs_ale = pytest.mark.skipif(not ALE_PY.installed, reason=f"needs {ALE_PY.name}: pip install {ALE_PY.install}")
STACK = Box((4, 84, 84), "uint8", 0.0, 255.0, FIRST, 4)
ROUNDED = 1  # level of grey by which OpenCV's mean of an area may differ from ours, which is exact


def game(name="Pong", *wrapper, **kwargs):
    return EnvSpec(f"ALE/{name}-v5", kwargs, wrapper or (("Atari", {}),))


def drawn(env, steps, seed=0):
    """What random actions lead to in every lane, `[steps, N]` each; observations are the true successors."""
    rng, rows = np.random.default_rng(seed), []
    env.reset()
    for _ in range(steps):
        action = rng.integers(env.action_space.n, size=(len(env.seeds), env.num_envs))
        rows.append(env.step(action))
    return rows


def test_one_word_stands_for_the_standard_preprocessing_and_says_all_of_it():
    spec = EnvSpec("ALE/Pong-v5", {"repeat_action_probability": 0.0}, (("Atari", {"life_loss": True}),))
    assert spec.kwargs == {**ATARI_KEYWORDS, "repeat_action_probability": 0.0}
    assert spec.wrappers == (("AtariFrames", {**ATARI_FRAMES, "life_loss": True}), ("FrameStack", {"frames": 4}))
    assert EnvSpec.from_json(spec.to_json()) == spec
    assert ATARI_KEYWORDS["repeat_action_probability"] == 0.25  # sticky actions of Machado et al. 2018


def test_the_preset_is_refused_to_other_envs():
    with pytest.raises(UsageError) as caught:
        EnvSpec.parse("CartPole-v1", (), ["Atari"])
    assert str(caught.value) == "the wrappers Atari and AtariFrames are for Atari games, ALE/...; not CartPole-v1"


def test_the_missing_package_is_named_in_one_line(monkeypatch):
    monkeypatch.setitem(ON_DEMAND, ALE, type(ALE_PY)("ale-py", "no_such_module_here", ALE_PY.install))
    with pytest.raises(UsageError) as caught:
        EnvSpec.parse("ALE/Pong-v5", (), ["Atari"])
    assert str(caught.value) == 'ALE/Pong-v5 needs ale-py: pip install "rlab-agents[atari]"'


@needs_ale
def test_an_env_step_is_four_frames_and_the_limit_of_an_episode_is_known():
    env = make_env(game())
    assert (env.observation_space.shape, env.observation_space.dtype) == ((4, 84, 84), np.uint8)
    env.reset(seed=0)
    frames = env.unwrapped.ale.getEpisodeFrameNumber
    before = frames()
    env.step(0)
    assert frames() - before == 4
    assert make_vec(game(), (0,), 1).time_limit == 27_000  # 108 000 frames


@needs_ale
def test_a_start_presses_fire_and_waits_for_a_number_of_frames_that_its_seed_decides():
    env = make_env(game())
    starts = []
    for seed in (*range(12), 0):
        env.reset(seed=seed)
        starts.append(env.unwrapped.ale.getEpisodeFrameNumber())
    assert starts[0] == starts[-1]
    assert len(set(starts)) > 4
    assert 1 <= min(starts) <= max(starts) <= 29
    still = make_env(game("Pong", ("Atari", {"noops": 0, "fire": False})))
    still.reset(seed=0)
    assert still.unwrapped.ale.getEpisodeFrameNumber() == 0


@needs_ale
@pytest.mark.parametrize("name", ["Pong", "Breakout"])
def test_ale_s_own_vector_env_plays_the_same_game_where_nothing_is_drawn(name):
    spec = game(name, ("Atari", {"noops": 0, "life_loss": True}), repeat_action_probability=0.0)
    sync, native = (drawn(make_vec(spec, (0, 7), 2, vector), 150) for vector in ("sync", "native"))
    ended = lost = 0
    for ours, theirs in zip(sync, native, strict=True):
        for field in ("reward", "terminated", "truncated", "valid"):
            assert np.array_equal(getattr(ours, field), getattr(theirs, field)), field
        for field in ("obs", "next_obs"):
            apart = np.abs(getattr(ours, field).astype(int) - getattr(theirs, field))
            assert apart.max() <= ROUNDED, field
        assert (ours.life_lost is None) == (theirs.life_lost is None)
        if ours.life_lost is not None:
            assert np.array_equal(ours.life_lost, theirs.life_lost)
            lost += ours.life_lost.sum()
        ended += ours.terminated.sum()
    assert ended + lost > 0 or name == "Pong"
    assert lost > 0 or name == "Pong"  # which has no lives


@needs_ale
@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (EnvSpec("ALE/Pong-v5"), "ALE's vector env shows stacks of frames: use --wrapper Atari and no other"),
        (game(mode=0), "ALE's vector env does not take mode"),
        (game(obs_type="rgb"), "stacks of ALE's vector env are in grey here: leave out the keyword obs_type"),
        (
            EnvSpec("ALE/Pong-v5", {}, (("Atari", {}),), max_episode_steps=9),
            "its limit counts frames: --env-kwargs max_num_frames_per_episode=N",
        ),
    ],
)
def test_what_ale_s_vector_env_cannot_do_is_named(spec, why):
    with pytest.raises(UsageError) as caught:
        make_vec(spec, (0,), 1, "native")
    assert str(caught.value) == f"--vector native: {why}; or use --vector sync or async"


@needs_ale
def test_games_go_on_from_a_saved_state_in_the_middle_of_later_episodes():
    spec = game("Breakout", max_num_frames_per_episode=160)  # 40 env steps an episode
    env, again = (make_vec(spec, (0,), 2) for _ in range(2))
    assert any(step.truncated.any() for step in drawn(env, 50))
    assert again.load_state(env.state()) is None
    rng = np.random.default_rng(1)
    for _ in range(30):
        action = rng.integers(env.action_space.n, size=(1, 2))
        ours, theirs = env.step(action), again.step(action)
        assert np.array_equal(ours.next_obs, theirs.next_obs)
        assert np.array_equal(ours.reward, theirs.reward)


def test_a_million_frames_are_kept_in_less_than_8_gb_for_each_member(monkeypatch):
    monkeypatch.setattr(fields, "_free_memory", lambda: 7 * 10**10)
    of_row = kept_fields((Field("obs", (4, 84, 84), "uint8"), Field("action", (), "int64")), STACK)
    size = (8, 1_000_000, of_row, torch.device("cpu"), False, True, 4)
    one = storage_nbytes(1, *size)
    assert 84 * 84 * 10**6 < one < 8 * 10**9
    assert storage_nbytes(9, *size) == 9 * one
    with pytest.raises(
        UsageError, match=r"storage for 1000000 transitions of each of 10 members needs 65.9 GiB and 65.2"
    ):
        storage_nbytes(10, *size)


def test_a_game_as_it_comes_is_noted():
    assert atari_notes("ALE/Pong-v5", ()) == [
        "note: the game as it comes; --wrapper Atari shrinks its pictures to 84x84 in grey and stacks four of them"
    ]
    assert atari_notes("ALE/Pong-v5", game().wrappers) == atari_notes("CartPole-v1", ()) == []


@needs_ale
def test_frames_that_the_env_skips_itself_are_refused():
    with pytest.raises(UsageError, match=r"it needs single frames: --wrapper Atari sets frameskip=1"):
        make_vec(EnvSpec("ALE/Pong-v5", {}, (("AtariFrames", {}),)), (0,), 1)
