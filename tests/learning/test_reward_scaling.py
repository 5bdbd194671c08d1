"""Running reward scaling against a plain recount of every lane's discounted sums."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.learning.reward_scaling import CLIP, EPSILON, RewardScaler

CPU = torch.device("cpu")


class Recount:
    """One member: all discounted sums so far, kept one by one."""

    def __init__(self, gamma: float, num_envs: int) -> None:
        self.gamma, self.sums, self.under_way = gamma, list[float](), [0.0] * num_envs

    def scale(self, reward: np.ndarray, ended: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Rewards `[N, T]`, scaled by the deviation of all sums up to the end of this rollout."""
        for (env, t), r in np.ndenumerate(reward):
            if not valid[env, t]:
                continue
            self.under_way[env] = self.gamma * self.under_way[env] + r
            self.sums.append(self.under_way[env])
            if ended[env, t]:
                self.under_way[env] = 0.0
        variance = np.var(self.sums) if self.sums else 1.0
        return np.clip(reward / np.sqrt(variance + EPSILON), -CLIP, CLIP)


def rollout(
    rng: np.random.Generator, members: int, num_envs: int, steps: int, style: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards, ends and validity `[S, N, T]`. In style "next" each end inside is followed by a reset row."""
    lanes = (members, num_envs, steps)
    reward = rng.normal(2.0, 3.0, lanes).astype(np.float32)
    ended, valid = rng.random(lanes) < 0.2, np.ones(lanes, bool)
    if style == "next":
        for t in range(1, steps):
            valid[..., t] = ~ended[..., t - 1]
            ended[..., t] &= valid[..., t]
    return reward, ended, valid


@given(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.sampled_from(["same", "next"]),
    st.sampled_from([0.0, 0.9, 1.0]),
)
def test_rewards_are_divided_by_the_deviation_of_all_discounted_sums(
    seed: int, members: int, num_envs: int, lengths: list[int], style: str, gamma: float
) -> None:
    rng = np.random.default_rng(seed)
    scaler, recounts = RewardScaler(members, gamma, CPU), [Recount(gamma, num_envs) for _ in range(members)]
    for steps in lengths:
        reward, ended, valid = rollout(rng, members, num_envs, steps, style)
        scaled = scaler.scale(*(torch.from_numpy(each) for each in (reward, ended, valid)))
        assert scaled.dtype == torch.float32
        for member, recount in enumerate(recounts):
            expected = recount.scale(reward[member], ended[member], valid[member])
            np.testing.assert_allclose(scaled[member].numpy(), expected, rtol=1e-3, atol=1e-4)


def scaled(scaler: RewardScaler, rewards: list[float], ends: str = "", resets: str = "") -> list[float]:
    """One member, one env; `ends` and `resets` mark with an x the rows that are ends or resets."""
    marks = [[[mark == "x" for mark in text.ljust(len(rewards))]] for text in (ends, resets)]
    ended, reset = (torch.tensor([mark]) for mark in marks)
    found: list[float] = scaler.scale(torch.tensor([[rewards]]), ended, ~reset)[0, 0].tolist()
    return found


def test_scaling_on_numbers_worked_by_hand() -> None:
    scaler = RewardScaler(1, 0.5, CPU)
    # sums 4, 0.5*4 + 6 = 8, and after the end 4 again, 8: mean 6, variance 4
    assert scaled(scaler, [4.0, 6.0, 4.0, 6.0], ends=" x") == pytest.approx([2.0, 3.0, 2.0, 3.0])
    # the episode under way goes on: 0.5*8 + 2 = 6. Five sums, mean 6, variance 16/5
    assert scaled(scaler, [2.0]) == pytest.approx([2.0 / 3.2**0.5])


def test_a_reset_row_adds_to_no_sum_and_is_counted_in_no_variance() -> None:
    plain, spread = RewardScaler(1, 0.5, CPU), RewardScaler(1, 0.5, CPU)
    without = scaled(plain, [4.0, 6.0, 4.0, 6.0], ends=" x")
    with_reset = scaled(spread, [4.0, 6.0, 1000.0, 4.0, 6.0], ends=" x", resets="  x")
    assert with_reset[:2] + with_reset[3:] == without
    # also where the rollout ends between the end and the reset row
    cut = RewardScaler(1, 0.5, CPU)
    scaled(cut, [4.0, 6.0], ends=" x")
    assert scaled(cut, [1000.0, 4.0, 6.0], resets="x")[1:] == pytest.approx(without[2:])


def test_the_first_rollout_is_scaled_by_itself_and_rewards_of_nothing_stay_nothing() -> None:
    assert scaled(RewardScaler(1, 0.9, CPU), [0.0, 0.0, 0.0]) == [0.0, 0.0, 0.0]
    assert scaled(RewardScaler(1, 0.9, CPU), [3.0], resets="x") == pytest.approx([3.0])  # nothing known: variance 1


def test_scaled_rewards_are_kept_within_the_clip() -> None:
    rare = [0.0] * 999 + [1000.0]  # 1000 sums of variance 999: the reward is 31.6 deviations
    assert scaled(RewardScaler(1, 0.0, CPU), rare)[-1] == CLIP
    assert scaled(RewardScaler(1, 0.0, CPU), [-r for r in rare])[-1] == -CLIP


def test_a_member_is_scaled_the_same_beside_any_others() -> None:
    rng = np.random.default_rng(0)
    together, alone = RewardScaler(3, 0.9, CPU), RewardScaler(1, 0.9, CPU)
    for _ in range(4):
        reward, ended, valid = (torch.from_numpy(each) for each in rollout(rng, 3, 4, 8, "next"))
        reward[0] *= 1e6
        beside = together.scale(reward, ended, valid)[1:2]
        assert torch.equal(alone.scale(reward[1:2], ended[1:2], valid[1:2]), beside)


def test_scaling_goes_on_from_its_state_with_fresh_episodes() -> None:
    first, second = RewardScaler(1, 0.5, CPU), RewardScaler(1, 0.5, CPU)
    scaled(first, [4.0, 6.0, 4.0, 6.0], ends=" x x")
    state = first.state()
    kept = copy.deepcopy(state)
    scaled(second, [70.0, 5.0])  # whatever it knew, and the episode that it was in, is gone
    second.load_state(state)
    assert scaled(second, [6.0, 1.0]) == scaled(first, [6.0, 1.0])
    assert all(torch.equal(state[name], kept[name]) for name in kept)  # a state is not changed by going on
