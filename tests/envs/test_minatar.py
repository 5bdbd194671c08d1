"""MinAtar's games as rlab plays them, where the package is installed."""

import numpy as np
import pytest

from rlab.envs import EnvSpec, make_env, make_vec
from rlab.envs.ids import ON_DEMAND
from rlab.networks.bodies import BodySettings, q_network_spec

MINATAR = ON_DEMAND["MinAtar/"]
pytestmark = pytest.mark.skipif(not MINATAR.installed, reason=f"needs {MINATAR.name}: pip install {MINATAR.install}")
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


def episode(env, seed, steps=40):
    """What an episode of always the same actions shows."""
    shown = [env.reset(seed=seed)[0]]
    for step in range(steps):
        obs, reward, terminated, _, _ = env.step(step % env.action_space.n)
        shown.append(np.append(obs, reward))
        if terminated:
            break
    return [one.tobytes() for one in shown]


@pytest.mark.parametrize("game", GAMES)
def test_an_episode_depends_on_its_seed_and_not_on_the_episode_before_it(game):
    used, fresh = (make_env(EnvSpec(f"MinAtar/{game}-v1")) for _ in range(2))
    for seed in range(20):  # in 40 steps some first action of an episode is replaced by the one before it
        used.reset(seed=1000 + seed)
        used.step(used.action_space.n - 1)
        assert episode(used, seed) == episode(fresh, seed)


def test_the_ids_of_version_1_have_the_actions_that_do_something():
    actions = {game: make_env(EnvSpec(f"MinAtar/{game}-v1")).action_space.n for game in GAMES}
    assert actions == {"Asterix": 5, "Breakout": 3, "Freeway": 3, "Seaquest": 6, "SpaceInvaders": 4}
    assert make_env(EnvSpec("MinAtar/Breakout-v0")).action_space.n == 6


def test_boards_go_to_16_filters_of_3x3_and_128_units_as_in_the_paper():
    space = make_vec(EnvSpec("MinAtar/Breakout-v1"), (0,), 1).obs_space
    layers = [layer for layer in q_network_spec(space, 3, BodySettings()).layers if layer.args]
    assert [layer.kind for layer in layers] == ["conv2d", "linear", "linear"]
    assert [layers[0].args[name] for name in ("out_channels", "kernel_size", "stride")] == [16, 3, 1]
    assert [layer.args["out_features"] for layer in layers[1:]] == [128, 3]


def test_a_picture_is_whole_numbers_that_a_film_takes():
    env = make_env(EnvSpec("MinAtar/Breakout-v1"), "rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert (picture.dtype, picture.shape) == (np.uint8, (160, 160, 3))
    assert picture.any()
    assert (picture[:16, :16] == picture[0, 0]).all()
