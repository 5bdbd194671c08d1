"""The loop of agents that learn from rollouts: how often, from which rows, and in whose order."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlab.experience.sequence_samplers import take_rows


def rolling(small: SimpleNamespace, env_steps: int, **settings: Any) -> Any:
    return small.loop(env_steps, agent=small.RollingAgent, **settings)


def orders(loop: Any) -> Tensor:
    """`[epochs in all, S, N * T]`: the numbers of the rows in the order in which they were learned from."""
    config, rows = loop.agent.config, [batch["row"] for batch in loop.agent.batches]
    per_epoch = config.minibatches
    return torch.stack([torch.cat(rows[i : i + per_epoch], dim=1) for i in range(0, len(rows), per_epoch)])


@pytest.mark.parametrize("num_envs", [1, 3, 8])
@pytest.mark.parametrize(("steps", "epochs", "minibatches"), [(1, 1, 1), (4, 3, 2), (7, 2, 7), (240, 2, 1)])
def test_updates_are_rollouts_times_epochs_times_minibatches(
    small: SimpleNamespace, num_envs: int, steps: int, epochs: int, minibatches: int
) -> None:
    loop = rolling(small, 240, num_envs=num_envs, rollout_steps=steps, epochs=epochs, minibatches=minibatches)
    assert loop.run()
    size, per_rollout = steps * num_envs, epochs * minibatches
    rollouts = 240 // size
    assert loop.updates == rollouts * per_rollout
    assert len(loop.agent.rollouts) == rollouts
    # all updates of a rollout come right behind its last env step
    assert loop.agent.updated_at == [size * (i + 1) for i in range(rollouts) for _ in range(per_rollout)]


def test_every_epoch_learns_from_every_row_exactly_once(small: SimpleNamespace) -> None:
    loop = rolling(small, 60, num_envs=2, rollout_steps=10, epochs=4, minibatches=3)
    loop.run()
    found = orders(loop)
    assert found.shape == (3 * 4, 2, 20)  # rollouts x epochs, members, rows
    assert (found.sort(dim=-1).values == torch.arange(20)).all()
    sizes = [batch["row"].shape[1] for batch in loop.agent.batches]
    assert sizes == [7, 7, 6] * 12  # as equal as 20 rows allow


def test_rows_stay_whole_when_they_are_shuffled(small: SimpleNamespace) -> None:
    loop = rolling(small, 60, seeds=(3, 4), num_envs=2, rollout_steps=10, epochs=2, minibatches=3)
    loop.run()
    for i, batch in enumerate(loop.agent.batches):
        first = 10 * (i // 6)  # vector step at which the rollout began; the env observes the vector step
        assert torch.equal(batch["obs"][..., 0], (first + batch["row"] % 10).float())
        assert (batch["seed"] == torch.tensor([[3], [4]])).all()  # nobody learns from another member's rows


def test_orders_differ_between_epochs_and_members_and_do_not_depend_on_the_other_members(
    small: SimpleNamespace,
) -> None:
    settings = {"num_envs": 2, "rollout_steps": 20, "epochs": 3, "minibatches": 4}
    alone, beside = (rolling(small, 120, seeds=seeds, **settings) for seeds in ((7,), (1, 7, 9)))
    alone.run()
    beside.run()
    assert torch.equal(orders(alone)[:, 0], orders(beside)[:, 1])
    every_order = orders(beside).flatten(0, 1)
    assert len(every_order.unique(dim=0)) == len(every_order) == 3 * 3 * 3


def test_one_minibatch_is_the_rollout_in_time_order_and_needs_no_draw(small: SimpleNamespace) -> None:
    loop = rolling(small, 40, num_envs=2, rollout_steps=10, epochs=3)
    before = loop.state()["sampler"]
    loop.run()
    assert (orders(loop) == torch.arange(20)).all()
    assert loop.state()["sampler"] == before


def test_a_rollout_that_the_budget_leaves_unfinished_is_not_learned_from(small: SimpleNamespace) -> None:
    loop = rolling(small, 59, rollout_steps=20, epochs=2)
    assert loop.run()
    assert loop.agent.updated_at == [20, 20, 40, 40]
    assert loop.clock.env_steps == 59
    assert loop.collector.transitions.tolist() == [59, 59]


def test_rollouts_follow_each_other_without_a_gap(small: SimpleNamespace) -> None:
    loop = rolling(small, 90, num_envs=3, rollout_steps=10)
    loop.run()
    for i, rollout in enumerate(loop.agent.rollouts):
        times = torch.arange(10 * i, 10 * i + 11).float()  # and the step behind the last
        assert torch.equal(rollout["obs"][..., 0], times.expand(2, 3, 11))
        assert rollout["terminated"][0, 0].nonzero().flatten().tolist() == [4, 9]


def stopped_loops(small: SimpleNamespace, saved_at: int) -> tuple[Any, Any, Any]:
    """A loop that was not stopped, one that was, and one that has its rows."""
    settings = {"rollout_steps": 20, "epochs": 2, "minibatches": 3, "length": 1000}
    whole, first, second = (rolling(small, steps, **settings) for steps in (100, saved_at, 100))
    whole.run()
    first.run()
    second.storage.load(first.storage.state(), (chunk.arrays() for chunk in first.storage.chunks()))
    return whole, first, second


@pytest.mark.parametrize("saved_at", [7, 25, 40, 53])  # within the first rollout, in mid-rollout, between two
def test_a_loop_goes_on_in_the_middle_of_an_episode_as_if_it_had_not_been_stopped(
    small: SimpleNamespace, saved_at: int
) -> None:
    whole, first, second = stopped_loops(small, saved_at)
    assert second.load_state(first.state()) is None
    assert second.run()
    learned = saved_at // 20
    for found, expected in zip(second.agent.rollouts, whole.agent.rollouts[learned:], strict=True):
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(orders(second), orders(whole)[learned * 2 :])


@pytest.mark.parametrize("saved_at", [7, 25, 40, 53])
def test_a_loop_whose_episodes_cannot_go_on_cuts_them_and_goes_on_with_the_rows_and_the_orders_that_come_next(
    small: SimpleNamespace, saved_at: int
) -> None:
    whole, first, second = stopped_loops(small, saved_at)
    second.collector.env.forgets = True
    assert second.load_state(first.state()) == "it forgets"
    second.collector.env.t = 500  # fresh episodes look different
    learned = saved_at // 20
    assert (second.clock.env_steps, second.updates) == (saved_at, learned * 6)
    assert second.run()
    assert second.updates == 5 * 6
    assert second.agent.updated_at == whole.agent.updated_at[learned * 6 :]
    assert torch.equal(orders(second), orders(whole)[learned * 2 :])
    begun = saved_at % 20
    rollout = second.agent.rollouts[0]
    times = [*range(learned * 20, saved_at), *range(500, 500 + 20 - begun + 1)]
    assert rollout["obs"][0, 0, :, 0].tolist() == times
    # where the old episode meets the fresh one it was cut, and its true successor is kept
    cut = [begun - 1] if begun else []
    assert rollout["truncated"][0, 0].nonzero().flatten().tolist() == cut
    assert rollout["final_row"].tolist() == [cut, cut]
    assert rollout["final_obs"][0, :, 0].tolist() == [saved_at] * len(cut)


def test_take_gathers_each_member_s_own_rows_of_any_shape() -> None:
    value = torch.arange(2 * 4 * 3 * 5).reshape(2, 4, 3, 5)
    taken = take_rows(value, torch.tensor([[3, 0], [4 + 1, 4 + 1]]))  # the second member's rows come behind the first's
    assert taken.shape == (2, 2, 3, 5)
    assert torch.equal(taken, torch.stack([value[0, [3, 0]], value[1, [1, 1]]]))
    assert take_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1], [2]])).tolist() == [[2.0], [3.0]]
