"""Searching: candidates, fronts and choices on numbers worked on paper, and trials of tiny policies."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.compression.distil import DistilSettings
from rlab.compression.report import compare
from rlab.compression.search import (
    Bounds,
    Candidate,
    Size,
    Trial,
    best,
    candidates,
    costs,
    finalists,
    front,
    hidden_widths,
    hopeful,
    ladder,
    on_front,
    outdone,
    spread,
)
from rlab.compression.steps import compress, parse_steps
from rlab.compression.trials import FIRST_SCREENING_STATE_SEED, Trials, weight_bytes
from rlab.compression.visits import END_OF_VISIT_SEEDS
from rlab.envs import EnvSpec, make_episodes
from rlab.evaluation.stats import Interval
from rlab.learning.adapters import with_lora
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete

CARTPOLE = Box((4,), "float32", float("-inf"), float("inf"))
PIXELS = Box((8, 9, 3), "uint8", 0.0, 255.0)
TINY = DistilSettings(rounds=1, rows=40, updates=8, batch_size=8)
BYTES = Bounds(max_bytes=1000)


def make_envs(n):
    return make_episodes(EnvSpec("CartPole-v1", max_episode_steps=30), n)


def make_parent(hidden=(16, 8), seeds=(3, 4)):
    network = actor_network_spec(CARTPOLE, 2, BodySettings(hidden, "tanh"), output_gain=1.0)
    spec = PolicySpec(CARTPOLE, Discrete(2), {"scaling": "none", "scale": None}, network, {"kind": "categorical"})
    return build_policy(spec, seeds)


def trial(name, size, mean, likeness=1.0, difference=(0.0, 0.0)):
    """One of the candidate `name`, such as `distil:4,int8`."""
    return Trial(named(name), Size(size), mean, Interval(mean - 500, *difference), likeness)


def named(text):
    (found,) = [each for each in candidates((64, 64)) if str(each) == text]
    return found


def test_the_ladder_ends_below_the_widest_layer_and_widens_none():
    assert ladder((64, 64)) == [(4, 4), (6, 6), (8, 8), (12, 12), (16, 16), (24, 24), (32, 32), (48, 48)]
    assert ladder((16, 8)) == [(4, 4), (6, 6), (8, 8), (12, 8)]
    assert ladder((100,))[-2:] == [(64,), (96,)]
    assert ladder((4, 4)) == ladder(()) == []


def test_candidates_are_widths_zeros_and_bits_but_not_the_parent_itself():
    every = candidates((8,))
    assert len(set(every)) == len(every) == 3 * 4 * 4 - 1  # 4, 6 and 8 as it is; four shares; four kinds of bits
    words = set(map(str, every))
    assert {"distil:4", "distil:6,sparse:0.8,qat4", "int8", "sparse:0.5", "sparse:0.9,qat2"} <= words
    assert "as it is" not in words
    assert all(parse_steps(str(each)) == each.steps for each in every)


def test_of_rounded_weights_only_students_are_made():
    every = candidates((8,), rounded=True)
    assert len(every) == 2 * 4 * 4
    assert all(each.steps[0].name == "distil" for each in every)
    assert candidates((4,), rounded=True) == ()


def test_hidden_widths_are_those_of_linear_layers_before_the_last():
    body = BodySettings((32, 16), layer_norm=True)
    assert hidden_widths(actor_network_spec(CARTPOLE, 2, body)) == (32, 16)
    assert hidden_widths(with_lora(actor_network_spec(CARTPOLE, 2, body), rank=2, alpha=4.0)) == (32, 16)
    assert hidden_widths(q_network_spec(CARTPOLE, 2, body, dueling=True)) == (32, 16)
    assert hidden_widths(q_network_spec(PIXELS, 2, BodySettings((9,)))) == (9,)  # behind a convolution
    assert hidden_widths(actor_network_spec(CARTPOLE, 2, BodySettings(()))) == ()


def test_bounds_are_kept_with_equality_and_latency_may_have_slack():
    both = Bounds(1000, 10.0)
    assert both.fits(Size(1000, 10.0))
    assert not both.fits(Size(1001, 10.0))
    assert not both.fits(Size(1000, 10.1))
    assert both.fits(Size(1000, 10.4), slack=0.05)
    assert not both.fits(Size(1001, 10.0), slack=0.05)  # bytes are known exactly
    assert not both.fits(Size(1000))  # a latency that nobody measured keeps no bound
    assert str(both) == "1000 bytes and 10 us"
    assert (both.cost(Size(7, 2.0)), Bounds(None, 10.0).cost(Size(7, 2.0))) == (7, 2.0)


def test_bits_and_zeros_that_save_nothing_are_outdone_by_those_that_lose_less():
    sizes = {
        "distil:4x4": 728,
        "distil:4x4,int8": 740,  # scales take more than the weights save
        "distil:4x4,qat4": 720,
        "distil:4x4,qat2": 720,  # no smaller than with 4 bits
        "distil:4x4,sparse:0.5": 728,  # as large as without zeros
        "distil:6x6": 700,  # of other widths: nothing is said of them
        "int8": 900,
        "sparse:0.5,int8": 899,
    }
    found = outdone({named(name): Size(size) for name, size in sizes.items()}, BYTES)
    assert set(map(str, found)) == {"distil:4x4,int8", "distil:4x4,qat2", "distil:4x4,sparse:0.5"}


def test_latencies_that_differ_by_noise_alone_are_equal():
    sizes = {named("distil:4x4"): Size(728, 6.2), named("distil:4x4,int8"): Size(848, 6.0)}
    assert set(map(str, outdone(sizes, Bounds(None, 10.0)))) == {"distil:4x4,int8"}  # 6.2 <= 6.0 * 1.05
    assert set(map(str, outdone(sizes, Bounds(1000, 10.0)))) == {"distil:4x4,int8"}
    sizes[named("distil:4x4,int8")] = Size(728, 5.9)  # 5.9 * 1.05 = 6.195
    assert outdone(sizes, Bounds(None, 10.0)) == set()


def test_what_is_as_fast_and_takes_fewer_bytes_is_worth_a_trial():
    sizes = {named("distil:4x4"): Size(728, 6.0), named("distil:4x4,qat4"): Size(720, 6.0)}
    assert outdone(sizes, Bounds(None, 10.0)) == set()
    sizes[named("distil:4x4,qat2")] = Size(720, 6.0)  # of equals the more precise one
    assert set(map(str, outdone(sizes, Bounds(None, 10.0)))) == {"distil:4x4,qat2"}


def test_latencies_are_equal_up_to_the_noise_from_the_fastest_one_on():
    sizes = [Size(1, each) for each in (5.745, 5.73, 6.1, 6.0, 6.4)]  # 5.73 * 1.05 = 6.0165, 6.1 * 1.05 = 6.405
    assert costs(sizes, Bounds(None, 10.0)) == [5.73, 5.73, 6.1, 5.73, 6.1]
    assert costs([Size(100, 6.0), Size(101, 6.0)], Bounds(1000, 10.0)) == [100, 101]  # bytes are known exactly


def test_items_are_spread_evenly_with_both_ends():
    assert spread(range(9), 3) == [0, 4, 8]
    assert spread(range(3), 5) == [0, 1, 2]
    assert spread(range(5), 1) == [4]
    assert spread(range(5), 0) == spread([], 3) == []


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_spread_repeats_nothing_and_keeps_the_order(n, most):
    found = spread(range(n), most)
    assert len(found) == min(n, most)
    assert found == sorted(set(found))


def test_only_students_that_may_keep_enough_go_on():
    poor = trial("distil:4x4", 728, 300.0, difference=(-250.0, -150.0))
    unsure = trial("distil:6x6", 872, 400.0, difference=(-180.0, -20.0))
    good = trial("distil:8x8", 1048, 500.0)
    assert hopeful([poor, unsure, good], may_lose=25.0) == [unsure, good]
    assert hopeful([poor, unsure], may_lose=10.0) == [unsure]  # none of them: the best one goes on
    assert hopeful([], may_lose=10.0) == []


def test_the_front_on_numbers_worked_on_paper():
    points = [(1, 0.5), (2, 0.4), (2, 0.9), (3, 0.9), (4, 0.9002), (5, 0.95), (6, 0.1)]
    # (2, .4) is beaten by both its neighbours, (3, .9) by (2, .9), (4, .9002) too: to three decimals it is 0.900
    assert front(points) == [True, False, True, False, False, True, False]
    assert front([(1, 1.0), (1, 1.0)]) == [True, True]
    assert front([(1, 0.5, 0.9), (2, 0.5, 0.8), (2, 0.5, 0.95)]) == [True, False, True]
    assert front([]) == []
    assert front([(1, 1.0), (1, 1.0), (1, 0.9)], [9, 8, 7]) == [False, True, False]  # of equals that of fewest bytes


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_what_is_off_the_front_is_beaten_by_something_on_it(points):
    def beaten(point, by):
        return by != point and by[0] <= point[0] and by[1] >= point[1] and by[2] >= point[2]

    on = [point for point, is_on in zip(points, front(points), strict=True) if is_on]
    for point in points:
        assert any(beaten(point, other) for other in on) == (point not in on)


def test_finalists_are_the_front_and_those_whose_decisions_are_more_alike():
    trials = [
        trial("distil:16x16", 2088, 490.0, 0.80),  # costs more, and is neither better nor more alike: out
        trial("distil:4x4", 728, 450.0, 0.85),
        trial("distil:6x6", 872, 500.0, 0.89),
        trial("distil:8x8", 1048, 500.0, 0.95),  # no more return than 6x6, but more alike
        trial("distil:8x8,int8", 992, 500.0, 0.88),  # neither
        trial("distil:12x12", 1504, 500.0, 0.96),
    ]
    names = [str(each.candidate) for each in finalists(trials, BYTES, most=8)]
    assert names == ["distil:4x4", "distil:6x6", "distil:8x8", "distil:12x12"]
    assert [str(each.candidate) for each in finalists(trials, BYTES, most=3)] == [
        "distil:4x4",
        "distil:6x6",
        "distil:12x12",
    ]
    assert [str(each.candidate) for each in finalists(trials, BYTES, most=1)] == ["distil:6x6"]


def test_the_highest_lower_end_within_the_bound_is_chosen_and_of_equals_the_smallest():
    kept = [Interval(1.0, low, 1.0) for low in (0.90, 0.97, 0.9704, 0.99)]
    assert best(kept, [Size(500), Size(900), Size(800), Size(1001)], BYTES) == 2  # 0.97 and 0.9704 are both 0.970
    assert best(kept, [Size(500), Size(700), Size(800), Size(1000)], BYTES) == 3
    assert best(kept, [Size(2000)] * 4, BYTES) is None
    assert best(kept, [Size(1, 9.0), Size(1, 11.0), Size(1, 12.0), Size(1, 10.5)], Bounds(None, 10.0)) == 0


def test_where_lower_ends_tie_the_higher_estimate_comes_before_fewer_bytes():
    kept = [Interval(0.0912, 0.0, 0.2), Interval(0.340, 0.0, 0.7), Interval(0.3404, 0.0, 0.7)]
    assert best(kept, [Size(500), Size(800), Size(900)], BYTES) == 1  # 0.340 and 0.3404 are equal


def test_where_nothing_fits_what_is_too_slow_by_the_noise_alone_is_chosen():
    kept, bounds = [Interval(1.0, low, 1.0) for low in (0.9, 0.8, 1.0)], Bounds(None, 6.0)
    slow = [Size(728, 6.2), Size(848, 6.3), Size(900, 6.4)]  # 6 * 1.05 = 6.3
    assert best(kept, slow, bounds) == 0
    assert best(kept, [slow[0], Size(848, 6.0), slow[2]], bounds) == 1  # one fits: the noise excuses none
    assert best(kept, [Size(1, 6.4)] * 3, bounds) is None
    assert on_front(kept, [Size(1, 6.4)] * 3, bounds) == [False] * 3


def test_of_equal_latencies_and_returns_the_smaller_policy_is_chosen_and_on_the_front():
    kept, sizes = [Interval(1.0, 1.0, 1.0)] * 2, [Size(3624, 5.73), Size(1504, 5.745)]
    assert best(kept, sizes, Bounds(None, 10.0)) == 1
    assert on_front(kept, sizes, Bounds(None, 10.0)) == [False, True]


RETURNS = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda two: Interval(max(two), min(two), 4.0))
SIZES = st.builds(Size, st.integers(900, 1100), st.floats(5.0, 7.0))


@given(
    st.lists(st.tuples(RETURNS, SIZES), max_size=8),
    st.sampled_from([Bounds(None, 6.0), Bounds(1000, None), Bounds(1000, 6.0)]),
)
def test_the_chosen_one_is_on_the_front(found, bounds):
    kept, sizes = [each[0] for each in found], [each[1] for each in found]
    chosen = best(kept, sizes, bounds)
    assert any(on_front(kept, sizes, bounds)) == (chosen is not None)
    assert chosen is None or on_front(kept, sizes, bounds)[chosen]


def test_the_smallest_student_that_fits_is_a_finalist_where_latency_is_bounded():
    def timed(name, size, us, mean, likeness):
        found = trial(name, size, mean, likeness)
        return replace(found, size=Size(size, us))

    trials = [
        timed("distil:4x4", 728, 6.2, 499.0, 0.8),
        timed("distil:4x4,int8", 848, 5.5, 500.0, 0.9),  # better in everything by chance
        timed("distil:8x8", 1048, 6.2, 499.0, 0.8),
    ]
    names = [str(each.candidate) for each in finalists(trials, Bounds(None, 6.0), most=8)]
    assert names == ["distil:4x4,int8", "distil:4x4"]
    assert len(finalists(trials, Bounds(None, 6.0), most=1)) == 1


@pytest.fixture(scope="module")
def trials():
    """Of a parent of two members."""
    return Trials(make_parent(), make_envs, TINY)


def outputs(policy):
    obs = np.random.default_rng(0).normal(size=(len(policy.seeds), 20, 4)).astype(np.float32)
    with torch.no_grad():
        return policy.outputs(torch.from_numpy(obs))


@pytest.mark.parametrize("name", ["distil:4x4", "distil:4x4,sparse:0.5,qat4", "sparse:0.8,int8", "qat2"])
def test_a_trial_is_the_policy_that_its_steps_make(trials, name):
    (candidate,) = [each for each in candidates((16, 8)) if str(each) == name]
    again = compress(make_parent(), name, make_envs, TINY)
    assert torch.equal(outputs(trials.made(candidate)), outputs(again))


def test_what_candidates_begin_with_is_made_once():
    made = []

    def counting(n):
        made.append(n)
        return make_envs(n)

    fresh = Trials(make_parent(), counting, TINY)
    before = len(made)
    fresh.made(Candidate((4, 4)))
    student = len(made) - before
    fresh.made(Candidate((4, 4), 0.5))
    zeros = len(made) - before - student
    fresh.made(Candidate((4, 4), 0.5))
    fresh.made(Candidate((4, 4)))
    assert student > 0
    assert zeros > 0
    assert len(made) == before + student + zeros


@pytest.mark.parametrize("name", ["distil:12x8,int8", "qat4", "sparse:0.8", "distil:12x8,sparse:0.5"])
def test_bytes_are_known_before_anything_is_trained(trials, name):
    (candidate,) = [each for each in candidates((16, 8)) if str(each) == name]
    found = weight_bytes(trials.made(candidate).member())
    assert trials.expected([candidate], timed=False) == {candidate: Size(found)}
    assert trials.screened(candidate, None).size == Size(found)
    assert compare(trials.parent, trials.made(candidate), make_envs, episodes=2).child.weight_bytes == found


def test_latency_is_measured_where_it_is_asked_for(trials):
    every = [Candidate((4, 4)), Candidate((6, 6)), Candidate((4, 4), 0.5)]
    assert all(each.latency_us is None for each in trials.expected(every, timed=False).values())
    found = trials.expected(every, timed=True)
    assert list(found) == every
    assert all(each.latency_us is not None and each.latency_us > 0 for each in found.values())


def test_candidates_of_the_same_widths_are_timed_in_turn(trials, monkeypatch):
    groups, medians = [], trials.medians
    monkeypatch.setattr(trials, "medians", lambda members: (groups.append(len(members)), medians(members))[1])
    trials.expected([Candidate((4, 4)), Candidate((6, 6)), Candidate((4, 4), 0.5)], timed=True)
    assert groups == [2, 1]
    found = [trials.screened(Candidate((4, 4)), 1e9), trials.screened(Candidate((4, 4), 0.5))]
    again = trials.timed_in_turn(found)
    assert groups == [2, 1, 2]
    assert [each.candidate for each in again] == [each.candidate for each in found]
    assert all(each.size.latency_us > 0 for each in again)


def test_the_screening_sees_no_episode_that_anything_is_judged_by():
    seen = []

    def noting(n):
        envs = make_envs(n)
        reset = envs.reset
        envs.reset = lambda seeds: (seen.extend(seeds), reset(seeds))[1]
        return envs

    trials = Trials(make_parent(), noting, TINY)
    trials.screened(Candidate(None), None)
    assert min(seen) == FIRST_SCREENING_STATE_SEED == 450_000
    assert max(seen) < END_OF_VISIT_SEEDS


def test_a_trial_tells_what_is_lost_against_the_parent():
    parent = make_parent(hidden=())
    with torch.no_grad():
        push = torch.tensor([0.0, 0.1, 1.0, 1.0])  # towards where the pole falls
        parent.network[0].weight.copy_(torch.stack([-push, push], dim=1))
        parent.network[0].bias.zero_()
    trials = Trials(parent, make_envs, TINY)
    same = trials.screened(Candidate(None), None)
    assert (same.mean_return, same.likeness) == (30.0, 1.0)  # until the time limit
    assert (same.difference.low, same.difference.high) == (0.0, 0.0)
    worse = trials.screened(Candidate((4, 4)), None)  # eight updates teach it nothing
    assert worse.likeness < 0.9
    assert worse.difference.estimate == pytest.approx(worse.mean_return - 30.0)
    assert worse.difference.low < 0.0
