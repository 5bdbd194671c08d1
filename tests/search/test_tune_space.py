"""What a search varies: ranges of configs, of files and of calls."""

from pathlib import Path
from typing import Any

import pytest

from rlab.errors import UsageError
from rlab.jobs.request import Request, train_request
from rlab.search.space import Parameter, Space, fixed_of, space_of
from rlab.search_ranges import Choices, Range


def request(agent: str = "dqn", **settings: Any) -> Request:
    return train_request(agent, "CartPole-v1", (), (), "none", settings)


def space(ranges: Any = None, agent: str = "dqn", **settings: Any) -> Space:
    return space_of(request(agent, **settings), ranges, tuple(settings))


def parameter(name: str, stated: Any) -> Parameter:
    return space({"only": True, name: stated}).parameters[name]


def test_what_the_config_states_is_searched_but_for_what_the_user_named() -> None:
    assert space().parameters["gamma"].space == Range(0.9, 0.9999, "one_minus")
    assert "gamma" not in space(gamma=0.9).parameters


def test_a_number_is_stored_on_its_scale_and_comes_back() -> None:
    gamma = parameter("gamma", {"low": 0.9, "high": 0.999})
    assert gamma.name == "one_minus_gamma"
    assert gamma.bounds() == pytest.approx((0.001, 0.1), rel=1e-12)  # 1 - 0.999 and 1 - 0.9
    assert gamma.value(0.0123456) == 0.98765  # 1 - 0.01235, of four digits
    batch = parameter("batch_size", {"low": 16, "high": 256})
    assert (batch.name, batch.bounds()) == ("log2_batch_size", (4, 8))
    assert (batch.value(5), batch.stored(100)) == (32, 7)  # log2(100) = 6.6
    assert parameter("n_step", {"low": 1, "high": 5}).value(3) == 3
    assert parameter("learning_rate", {}).value(0.00123456) == 0.001235


def test_a_grid_has_the_ends_and_the_middle_of_a_range_on_its_scale() -> None:
    assert parameter("learning_rate", {"low": 1e-4, "high": 1e-2}).grid() == pytest.approx([1e-4, 1e-3, 1e-2])
    assert parameter("batch_size", {"low": 16, "high": 256}).grid() == [4, 6, 8]
    assert parameter("n_step", {"low": 1, "high": 2}).grid() == [1, 2]
    assert parameter("gamma", [0.9, 0.99]).grid() == ["0.9", "0.99"]


def test_a_grid_over_everything_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"a grid over 13 settings has 708,588 points.*only = true"):
        space(agent="ppo").grid()


def test_lists_are_choices_and_a_list_of_numbers_is_one_value_of_a_setting_that_is_a_list() -> None:
    assert parameter("gamma", [0.9, 0.99]).space == Choices((0.9, 0.99), "ranges")
    hidden = parameter("hidden", [[64], [64, 64], "None"])
    assert hidden.words() == {"64": (64,), "64 64": (64, 64), "None": None}
    fixed = {"hidden": [32, 32], "gamma": 0.9}
    assert not {"hidden", "gamma"} & space(fixed).parameters.keys()
    settings = fixed_of(request(), fixed).settings
    assert (settings.hidden, settings.gamma) == ((32, 32), 0.9)


def test_the_search_starts_at_the_defaults_or_at_what_is_nearest_to_them() -> None:
    found = space({"only": True, "entropy_weight": {}, "gamma": {"low": 0.995, "high": 0.999}}, agent="ppo")
    assert found.start() == {"entropy_weight": 1e-8, "one_minus_gamma": 0.005}  # of 0.0 and 0.99
    assert found.defaults() == {"entropy_weight": 0.0, "gamma": 0.99}
    assert found.settings(found.start()) == {"entropy_weight": 1e-8, "gamma": 0.995}


def test_a_file_narrows_fixes_and_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "ranges.toml"
    path.write_text(
        'only = true\nlearning_rate = {high = 1e-3}\ngamma = 0.95\nnum_envs = [4, 8]\nloss = ["huber", "squared"]\n'
    )
    found = space(path).parameters
    assert found["learning_rate"].space == Range(1e-5, 1e-3, "log", str(path))  # the rest as the config states it
    assert set(found) == {"learning_rate", "num_envs", "loss"}
    assert fixed_of(request(), path).settings.gamma == 0.95


@pytest.mark.parametrize(
    ("stated", "why"),
    [
        ({"lerning_rate": {}}, "unknown setting 'lerning_rate'. Did you mean 'learning_rate'"),
        ({"lr": {}}, "unknown setting lr: .*learning_rate"),
        ({"gamma": {"lo": 0.9}}, "unknown key of gamma in ranges 'lo'. Did you mean 'low'"),
        ({"gamma": {"low": 0.9, "high": 1.5}}, "ranges: gamma: .*ends below 1"),
        ({"epsilon_end": {"low": 0.0, "high": 2.0}}, r"ranges: epsilon_end: epsilon_end 2.0 must be in \[0, 1\]"),
        ({"n_step": {"low": 1.5}}, "n_step = 1.5 is not a whole number"),
        ({"gamma": ["high"]}, "ranges: gamma: gamma = 'high' is not a number"),
        ({"gamma": [0.9]}, "ranges: gamma: .*two or more"),
        ({"loss": {"low": 1, "high": 2}}, "ranges: loss: it is not a number; name choices"),
        ({"dropout": {"low": 0.1}}, "ranges: dropout: a range needs low and high"),
        ({"env_steps": [1000, 2000]}, "env_steps cannot be searched; it is the same in all trials: --env-steps"),
        ({"only": True}, "nothing is searched"),
    ],
)
def test_ranges_that_cannot_be_are_one_clear_line(stated: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        space(stated)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_one_of_ranges_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "ranges.toml"
    for text, why in (
        ("a = [", "not a readable TOML"),
        ("format = 2", "another format"),
        ("only = 1", "true or false"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=why):
            space(path)
