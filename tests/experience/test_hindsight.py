"""Replay read with goals in hindsight: whose goal, how many rows, what is computed anew; and the spans of episodes.

In the made-up world an observation is `(id, -id)`. Here the first number is the goal achieved and the second the goal
desired, so that the desired goal of a relabelled row is the id of the observation that it was taken from.
"""

import numpy as np
import pytest
import torch

from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.env_contract import Step
from rlab.experience.fields import Field
from rlab.experience.goals import GoalPlaces, Goals, goal_places
from rlab.experience.hindsight_sampler import STRATEGIES, HindsightSampler
from rlab.experience.samplers import UniformSampler
from rlab.experience.sequence_samplers import SequenceSampler
from rlab.experience.storage import Storage
from rlab.networks.spaces import Box, Dict, Discrete, Masked

PLACES = GoalPlaces(slice(0, 1), slice(1, 2), Box((1,), "int64", 0.0, 1e6))
STYLES = ("same", "next", "disabled")
CHI_SQUARE = {10: 27.88, 15: 36.12}  # its 0.999 quantile, by the number of goals, one more than degrees of freedom


def goals(terminated=None):
    """A step pays what was achieved minus what was desired, so that every reward tells both."""
    paid = lambda achieved, desired: (achieved - desired)[..., 0].float()  # noqa: E731
    return Goals(PLACES, paid, terminated, on_host=False)


def hindsight(storage, strategy="future", per_row=4, n_step=1, seeds=(3, 4), terminated=None):
    windows = UniformSampler(storage, Draws(seeds, "replay", "cpu"), n_step)
    return HindsightSampler(windows, storage, goals(terminated), Draws(seeds, "goals", "cpu"), strategy, per_row)


def keep_theirs(batch):
    """Which rows `[B]` of the first member have their own goal: minus their id, and never an id of a successor."""
    return batch["obs"][0, :, 1] == -batch["obs"][0, :, 0]


def episodes_of(world, oldest):
    """For each lane and each time that is held the times of its episode, among those held."""
    found = {}
    for lane, rows in world.lanes.items():
        spans, begins = [], 0
        for t, row in enumerate(rows):
            if row.terminated or row.truncated or not row.valid:
                spans.append(range(begins, t + 1))
                begins = t + 1
        spans.append(range(begins, len(rows)))
        found |= {(*lane, t): [u for u in span if u >= oldest] for span in spans for t in span if t >= oldest}
    return found


def check_spans(world, storage):
    oldest, n = storage.rows_written - storage.rows, storage.num_envs
    for (s, env, t), span in episodes_of(world, oldest).items():
        row = torch.full((storage.members, 1), t * n + env)
        first, last = storage.spans.of(row)
        assert (first[s].item(), last[s].item()) == (span[0], span[-1])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("ending", [0.02, 0.2, 0.7])  # also an episode that fills all of the storage
def test_the_span_of_every_row_s_episode_is_known_round_after_round(make_world, style, ending):
    world = make_world(2, 3, style, ending)
    storage = world.storage(9 * 3)
    storage.follow_episodes()
    for steps in (1, 1, 4, 7, 13, 1, 20):
        world.play(steps, storage)
        check_spans(world, storage)


@pytest.mark.parametrize("begun", [0, 1, 5, 30])
def test_storage_that_begins_to_follow_episodes_knows_those_that_it_holds(make_world, begun):
    world = make_world(2, 3, "next", 0.2)
    storage = world.storage(9 * 3)
    world.play(begun, storage)
    storage.follow_episodes()
    for steps in (0, 1, 6, 20):
        world.play(steps, storage)
        check_spans(world, storage)


def test_an_episode_that_is_cut_in_storage_ends_there(make_world):
    world = make_world(1, 1, "same", 0.0)
    storage = world.storage(20)
    storage.follow_episodes()
    world.play(3, storage)
    storage.cut_episodes()
    world.play(2, storage)
    spans = [tuple(time.item() for time in storage.spans.of(torch.tensor([[t]]))) for t in range(5)]
    assert spans == [(0, 2)] * 3 + [(3, 4)] * 2


def test_a_program_follows_episodes_and_relabels_as_the_host_does(make_world, as_graph):
    world = make_world(2, 3, "next", 0.3)
    inside, outside = world.storage(9 * 3, growing=False), world.storage(9 * 3, growing=False)
    samplers = [hindsight(storage, n_step=2) for storage in (inside, outside)]

    def row():
        obs, action, step = world.played()
        return obs, action, step.obs, step.next_obs, step.reward, step.terminated, step.truncated, step.valid

    def write(obs, action, *step):
        inside.write(obs, action, Step(*step))

    writes, draws = as_graph(write, *row()), None
    for steps in (2, 1, 8, 15):
        for _ in range(steps):
            tensors = row()
            outside.add(*tensors[:2], Step(*tensors[2:]))
            writes(*tensors)
            inside.wrote(1)
        draws = draws or as_graph(lambda: samplers[0].sample(10))
        mine, theirs = draws(), samplers[1].sample(10)
        for name, value in theirs.items():
            assert torch.equal(mine[name], value), name


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_goal_was_achieved_in_the_row_s_own_episode_and_the_rewards_are_of_it(make_world, style, strategy):
    world = make_world(2, 3, style, 0.15)
    storage = world.storage(30 * 3)
    sampler = hindsight(storage, strategy, n_step=3)
    for steps in (5, 17, 40):
        world.play(steps, storage)
        spans = episodes_of(world, storage.rows_written - storage.rows)
        batch = sampler.sample(50)
        for s, i in np.ndindex(2, 50):
            t, env = divmod(batch["row"][s, i].item(), 3)
            rows, steps_in = world.lanes[s, env], int(batch["steps"][s, i])
            last = rows[t + steps_in - 1]
            assert (batch["obs"][s, i, 0], batch["next_obs"][s, i, 0]) == (rows[t].obs, last.next_obs)
            goal = batch["obs"][s, i, 1].item()
            if goal == -rows[t].obs:  # its own, which is no id of a successor; with its rewards and its ending
                paid = [rows[t + k].reward for k in range(steps_in)]
                assert batch["terminated"][s, i] == last.terminated
            else:
                span = spans[s, env, t]
                span = {"future": [u for u in span if u >= t], "final": span[-1:], "episode": span}[strategy]
                assert goal in [rows[u].next_obs for u in span]
                assert batch["next_obs"][s, i, 1] == goal
                paid = [rows[t + k].next_obs - goal for k in range(steps_in)]
                assert batch["terminated"][s, i] == last.terminated  # nothing says that a goal ends an episode
            assert batch["reward"][s, i].tolist() == paid + [0.0] * (3 - steps_in)


@pytest.mark.parametrize(("per_row", "rows", "kept"), [(4, 5, 1), (4, 64, 13), (4, 1, 1), (1, 10, 5), (8, 100, 12)])
def test_k_of_every_k_plus_1_rows_are_relabelled(make_world, per_row, rows, kept):
    world = make_world(1, 2, "same", 0.1)
    storage = world.storage(40)
    world.play(30, storage)
    sampler, starts = hindsight(storage, per_row=per_row, seeds=(7,)), set()
    for _ in range(30):
        own = keep_theirs(sampler.sample(rows))
        assert own.sum() == kept
        starts |= {
            i for i in range(rows) if own.roll(-i).nonzero().flatten().tolist() == [*range(0, rows, per_row + 1)]
        }
    assert len(starts) > min(rows - 1, 4)  # not always the same places: prioritised rows come in an order


@pytest.mark.parametrize("strategy", ["future", "episode"])
def test_every_goal_that_may_be_drawn_is_drawn_equally_often(make_world, strategy):
    # One episode of 15 rows under way; of row 5 on there are 10 later goals.
    world = make_world(1, 1, "same", 0.0)
    storage = world.storage(40)
    world.play(15, storage)
    sampler = hindsight(storage, strategy, seeds=(5,))
    counts = np.zeros(15)
    for _ in range(40):
        batch = sampler.sample(400)
        rows = [row.next_obs for row in world.lanes[0, 0]]
        for i in ((batch["row"][0] == 5) & ~keep_theirs(batch)).nonzero().flatten().tolist():
            counts[rows.index(batch["obs"][0, i, 1].item())] += 1
    drawn = counts[5:] if strategy == "future" else counts
    assert counts.sum() == drawn.sum()  # no goal from before
    expected = drawn.sum() / len(drawn)
    assert ((drawn - expected) ** 2 / expected).sum() < CHI_SQUARE[len(drawn)]


def test_a_window_ends_where_its_new_goal_is_achieved_and_the_rewards_behind_it_do_not_count():
    # Ids 0 1 2 3 4 5; the episode terminates with row 4. From row 1, n = 3, goals that may be drawn are 2, 3, 4 and 5.
    storage = Storage(1, 1, 8, (Field("obs", (2,), "int64"), Field("action", (), "int64")), has_reset_rows=False)
    flag = lambda value: torch.full((1, 1), value)  # noqa: E731
    for t in range(5):
        obs, led_to = (torch.tensor([[[i, -9]]]) for i in (t, t + 1))
        step = Step(led_to, led_to, torch.ones(1, 1), flag(t == 4), flag(False), flag(True))
        storage.add(obs, torch.zeros(1, 1, dtype=torch.int64), step)
    same = lambda achieved, desired: (achieved == desired)[..., 0]  # noqa: E731
    sampler = hindsight(storage, n_step=3, seeds=(0,), terminated=same)
    seen = set()
    for _ in range(20):
        batch = sampler.sample(50)
        for i in ((batch["row"][0] == 1) & (batch["obs"][0, :, 1] != -9)).nonzero().flatten().tolist():
            row = {name: value[0, i].tolist() for name, value in batch.items()}
            goal = row["obs"][1]
            seen.add(goal)
            # what was achieved minus the goal, until it is achieved
            paid, steps = {
                2: ([0.0, 0.0, 0.0], 1),
                3: ([-1.0, 0.0, 0.0], 2),
                4: ([-2.0, -1.0, 0.0], 3),
                5: ([-3.0, -2.0, -1.0], 3),
            }[goal]
            assert (row["reward"], row["steps"], row["next_obs"]) == (paid, steps, [1 + steps, goal])
            assert (row["terminated"], row["truncated"]) == (goal <= 4, False)
        for i in ((batch["row"][0] == 3) & (batch["obs"][0, :, 1] != -9)).nonzero().flatten().tolist():
            # rows 3 and 4: the episode ended behind them, which is nothing to the goal 4, achieved one step before
            goal, ended = batch["obs"][0, i, 1].item(), batch["terminated"][0, i].item()
            assert (goal, batch["steps"][0, i].item(), ended) in {(4, 1, True), (5, 2, True)}
    assert seen == {2, 3, 4, 5}


def test_an_ending_that_the_new_goal_does_not_explain_counts_as_a_cut(make_world):
    world = make_world(1, 2, "same", 0.3)
    storage = world.storage(60)
    world.play(25, storage)
    never = lambda achieved, desired: torch.zeros_like(achieved, dtype=torch.bool)[..., 0]  # noqa: E731
    batch = hindsight(storage, seeds=(1,), terminated=never).sample(200)
    relabelled = ~keep_theirs(batch)
    assert not batch["terminated"][0, relabelled].any()
    for i in relabelled.nonzero().flatten().tolist():
        t, env = divmod(batch["row"][0, i].item(), 2)
        row = world.lanes[0, env][t]
        assert batch["truncated"][0, i] == (row.terminated or row.truncated)


def test_a_member_s_goals_do_not_depend_on_the_other_members(make_world):
    world = make_world(2, 2, "same", 0.2)
    storage = world.storage(40)
    world.play(30, storage)
    both = hindsight(storage, seeds=(3, 4)).sample(30)
    one = Storage(1, 2, 40, storage.fields[:1] + storage.fields[1:2], has_reset_rows=False)
    for name, column in storage.columns.items():
        one.columns[name].bits.copy_(column.bits[1:])
    one.finals.place.bits.copy_((storage.finals.place.bits[1:] - storage.finals.places).clamp(min=0))
    one.finals.table[1:] = storage.finals.table[1 + storage.finals.places :]
    one.wrote(30)
    mine = hindsight(one, seeds=(4,)).sample(30)
    for name, value in mine.items():
        assert torch.equal(value[0], both[name][1]), name


def test_weights_and_feedback_belong_to_the_sampler_inside(make_world):
    class Weighted(UniformSampler):
        draws_ahead = False

        def sample(self, batch_size):
            batch = super().sample(batch_size)
            return {**batch, "weight": batch["row"].float()}

        def feedback(self, row, value):
            self.heard = row, value

    world = make_world(1, 2, "same", 0.2)
    storage = world.storage(40)
    world.play(30, storage)
    inner = Weighted(storage, Draws((3,), "replay", "cpu"))
    sampler = HindsightSampler(inner, storage, goals(), Draws((3,), "goals", "cpu"), "future", 4)
    batch = sampler.sample(20)
    assert torch.equal(batch["weight"], batch["row"].float())
    sampler.feedback(batch["row"], batch["weight"])
    assert inner.heard[0] is batch["row"]
    assert not sampler.draws_ahead


def test_a_saved_sampler_goes_on_with_the_very_next_goals(make_world):
    world = make_world(2, 2, "same", 0.2)
    storage = world.storage(40)
    world.play(30, storage)
    first, second = hindsight(storage), hindsight(storage)
    first.sample(20)
    second.load_state(first.state())
    mine, theirs = first.sample(20), second.sample(20)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_sequences_are_refused_in_one_line(make_world):
    world = make_world(1, 1, "same", 0.1)
    storage = world.storage(20)
    world.play(10, storage)
    inner = SequenceSampler(storage, Draws((3,), "replay", "cpu"), 4)
    sampler = HindsightSampler(inner, storage, goals(), Draws((3,), "goals", "cpu"), "future", 4)
    with pytest.raises(UsageError, match="cannot relabel sequences: take a network without memory"):
        sampler.sample(5)


def test_where_the_goals_are_in_an_observation():
    goal, rest = Box((2, 3), "float32", -1.0, 1.0), Box((4,), "float32", -1.0, 1.0)
    space = Dict((("achieved_goal", goal), ("desired_goal", goal), ("observation", rest)))
    found = goal_places(space, "Reach-v0")
    assert (found.achieved, found.desired, found.space) == (slice(0, 6), slice(6, 12), goal)
    assert goal_places(Masked(space, 3), "Reach-v0") == found
    with pytest.raises(UsageError, match=r"CartPole-v1 has no goals .* compute_reward"):
        goal_places(rest, "CartPole-v1")
    for other in (rest, Discrete(6)):
        parts = (("achieved_goal", goal), ("desired_goal", other))
        with pytest.raises(UsageError, match="of one kind and shape"):
            goal_places(Dict(parts), "Reach-v0")
