"""Search ranges beside the defaults of a config."""

from dataclasses import dataclass

import pytest

from rlab.agents import AGENTS, load_agent
from rlab.errors import UsageError
from rlab.jobs.settings import descriptions, settings_of
from rlab.search_ranges import Choices, Range, chosen, ranges_of, searched, unsearched


@dataclass(frozen=True, kw_only=True)
class Base:
    rate: float = searched(1e-3, 1e-5, 1e-2, "log")  # of the optimizer
    width: int = chosen(64, 32, 128, source="a paper")  # of layers
    weight: float = searched(0.0, 0.0, 1.0)
    plain: int = 1


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    rate: float = 3e-4
    width: int = chosen(16, 8)
    weight: float = unsearched(1.0)


def test_a_field_with_a_range_has_its_default_and_its_help() -> None:
    assert Base() == Base(rate=1e-3, width=64, weight=0.0, plain=1)
    assert descriptions(Base)["rate"] == "of the optimizer"


def test_a_new_default_keeps_the_inherited_range_and_a_new_range_replaces_it() -> None:
    assert ranges_of(Base) == {
        "rate": Range(1e-5, 1e-2, "log"),
        "width": Choices((64, 32, 128), "a paper"),
        "weight": Range(0.0, 1.0),
    }
    assert ranges_of(Derived) == {"rate": Range(1e-5, 1e-2, "log"), "width": Choices((16, 8))}


def test_a_number_outside_a_range_has_a_nearest_one_in_it() -> None:
    assert Range(1e-8, 0.1, "log").nearest(0.0) == 1e-8
    assert Range(1, 5).nearest(3) == 3
    assert Range(16, 256, "powers").nearest(100) == 128  # log2(100) = 6.64


@pytest.mark.parametrize(
    ("low", "high", "scale", "why"),
    [
        (1.0, 1.0, "linear", "low must be below high"),
        (0.0, 1.0, "log", "begins above 0"),
        (0.9, 1.0, "one_minus", "ends below 1"),
        (16, 100, "powers", "1, 2, 4, 8"),
        (0.0, float("inf"), "linear", "both finite"),
        (1.0, 2.0, "logs", "Did you mean 'log'"),
    ],
)
def test_a_range_that_cannot_be_searched_is_refused(low: float, high: float, scale: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Range(low, high, scale)  # type: ignore[arg-type]


def test_fewer_than_two_different_choices_are_refused() -> None:
    for values in ((1,), (1, 1)):
        with pytest.raises(UsageError, match="two or more"):
            Choices(values)


@pytest.mark.parametrize("name", AGENTS)
def test_every_registered_agent_can_be_searched_around_its_own_defaults(name: str) -> None:
    config = load_agent(name).Config  # type: ignore[attr-defined]
    found, settings = ranges_of(config), settings_of([config])
    assert "learning_rate" in found
    for setting, space in found.items():
        default = settings[setting].usual
        if isinstance(space, Choices):
            assert default in space.values
        elif setting != "entropy_weight":  # 0 by default, and no log scale has a 0
            assert space.low <= default <= space.high, setting
            assert space.nearest(default) == default
