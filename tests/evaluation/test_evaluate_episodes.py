"""Evaluation on fake envs whose every return is known."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlab.errors import RlabError, UsageError
from rlab.evaluation.episode_driver import StoppedError
from rlab.evaluation.evaluate import Evaluation, evaluate
from rlab.randomness import FIRST_TRAINING_ENV_SEED


def length_of(seed):
    return 1 + seed % 5


def return_of(seed, action):
    """An env of seed s pays `s + action` on each of its steps."""
    return length_of(seed) * (seed + action)


class FakeEnvs:
    """Env of seed s ends after `length_of(s)` steps: terminated where s is even, truncated where it is odd."""

    time_limit = None

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.seeds_of_resets = []
        self.steps = 0
        self.closed = False

    def reset(self, seeds):
        assert len(seeds) == self.num_envs
        self.seeds_of_resets.append(list(seeds))
        self.seeds, self.t = np.array(seeds), np.zeros(self.num_envs, dtype=int)
        self.over = np.zeros(self.num_envs, dtype=bool)
        return self._obs()

    def step(self, action, active):
        assert action.shape == active.shape == (self.num_envs,)
        assert not (active & self.over).any(), "a finished episode was stepped"
        self.t += active
        self.steps += int(active.sum())
        ends = active & (self.t == 1 + self.seeds % 5)
        self.over |= ends
        # Idle rows report an ending and a reward that nobody may count.
        reward = np.where(active, self.seeds + action, 1e9).astype(np.float32)
        even = self.seeds % 2 == 0
        return self._obs(), reward, (ends & even) | ~active, ends & ~even

    def close(self):
        self.closed = True

    def _obs(self):
        return np.stack([self.seeds, self.t], axis=1).astype(np.float32)


class Makes:
    """`make_envs` that remembers what it made."""

    def __init__(self, kind=FakeEnvs):
        self.kind, self.made = kind, []

    def __call__(self, n):
        self.made.append(self.kind(n))
        return self.made[-1]


class ConstantPolicy:
    """Member i always takes `actions[i]`."""

    def __init__(self, *actions, seeds=None):
        self.actions = np.array(actions)
        self.seeds = seeds or tuple(range(len(actions)))
        self.widths = []

    def __call__(self, obs):
        assert obs.shape[0] == len(self.seeds)
        assert obs.shape[2:] == (2,)
        self.widths.append(obs.shape[1])
        return np.broadcast_to(self.actions[:, None], obs.shape[:2]).copy()


def test_returns_and_lengths_are_those_known_on_paper():
    # Seeds 10, 11, 12: lengths 1, 2, 3. Action 0 earns 10, 2 x 11, 3 x 12; action 5 earns 15, 2 x 16, 3 x 17.
    result = evaluate(ConstantPolicy(0, 5, seeds=(7, 8)), Makes(), episodes=3, first_seed=10)
    assert result.returns.tolist() == [[10.0, 22.0, 36.0], [15.0, 32.0, 51.0]]
    assert result.lengths.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert (result.returns.dtype, result.lengths.dtype) == (np.float64, np.int64)
    assert (result.seeds, result.first_seed, result.episodes, result.env_steps) == ((7, 8), 10, 3, 12)
    assert result.per_seed_mean.tolist() == pytest.approx([68 / 3, 98 / 3])


def test_episode_k_has_the_same_seed_for_every_member():
    makes = Makes()
    evaluate(ConstantPolicy(0, 1, 2), makes, episodes=4, first_seed=100)
    assert makes.made[0].seeds_of_resets == [[100, 101, 102, 103] * 3]


@given(st.integers(1, 4), st.integers(1, 13), st.integers(1, 60), st.integers(0, 50))
@settings(deadline=None)
def test_blocks_change_nothing_and_respect_the_limit(members, episodes, max_envs, first_seed):
    makes = Makes()
    result = evaluate(ConstantPolicy(*range(members)), makes, episodes, first_seed, max_envs)
    expected = [[return_of(first_seed + k, action) for k in range(episodes)] for action in range(members)]
    assert result.returns.tolist() == expected
    assert result.lengths.tolist() == [[length_of(first_seed + k) for k in range(episodes)]] * members
    (envs,) = makes.made  # one set of envs serves every block
    assert envs.num_envs <= max_envs
    assert envs.steps == result.env_steps  # not one step more than the episodes have
    assert max(seed for seeds in envs.seeds_of_resets for seed in seeds) == first_seed + episodes - 1
    assert envs.closed


def test_the_policy_is_asked_only_about_columns_that_still_play():
    policy = ConstantPolicy(0, 0)
    evaluate(policy, Makes(), episodes=5, first_seed=10)  # lengths 1, 2, 3, 4, 5
    assert policy.widths == [5, 4, 3, 2, 1]


def test_a_column_lives_while_one_member_plays_it():
    class QuitsOnOne(FakeEnvs):
        def step(self, action, active):
            obs, reward, terminated, truncated = super().step(action, active)
            return obs, reward, terminated | (active & (action == 1)), truncated

    result = evaluate(ConstantPolicy(0, 1), Makes(QuitsOnOne), episodes=5, first_seed=10)
    assert result.lengths.tolist() == [[1, 2, 3, 4, 5], [1, 1, 1, 1, 1]]
    assert result.returns.tolist() == [[10, 22, 36, 52, 70], [11, 12, 13, 14, 15]]


def test_actions_reach_the_env_of_the_observation_they_answer():
    class EchoPolicy(ConstantPolicy):
        def __call__(self, obs):
            return obs[..., 0].astype(np.int64) * 1000  # its own env's seed

    result = evaluate(EchoPolicy(0, 0), Makes(), episodes=6, first_seed=3, max_envs=4)
    assert result.returns.tolist() == [[return_of(s, 1000 * s) for s in range(3, 9)]] * 2


def test_vector_actions_and_scalar_observations_pass_through():
    class Continuous(FakeEnvs):
        def step(self, action, active):
            assert action.shape == (self.num_envs, 3)
            assert action.dtype == np.float32
            return super().step(action.sum(axis=1), active)

        def _obs(self):
            return self.seeds.copy()

    class Policy:
        seeds = (0, 1)

        def __call__(self, obs):
            return np.ones((*obs.shape, 3), dtype=np.float32)

    result = evaluate(Policy(), Makes(Continuous), episodes=4, first_seed=0)
    assert result.returns.tolist() == [[return_of(s, 3) for s in range(4)]] * 2


def test_returns_are_summed_in_double_precision():
    class Pennies(FakeEnvs):
        def step(self, action, active):
            obs, _, terminated, truncated = super().step(action, active)
            return obs, np.full(self.num_envs, 2**24 + 2 * self.t[0], dtype=np.float32), terminated, truncated

    result = evaluate(ConstantPolicy(0), Makes(Pennies), episodes=1, first_seed=4)
    assert result.returns[0, 0] == 5 * 2**24 + 2 * (1 + 2 + 3 + 4 + 5)  # float32 would lose the last bits


@pytest.mark.parametrize("first_seed", [-1, FIRST_TRAINING_ENV_SEED, FIRST_TRAINING_ENV_SEED - 4])
def test_seeds_of_training_envs_are_refused_before_any_env_is_made(first_seed):
    makes = Makes()
    with pytest.raises(UsageError, match="episode seeds must lie between 0 and 1073741823") as caught:
        evaluate(ConstantPolicy(0), makes, episodes=5, first_seed=first_seed)
    assert "\n" not in str(caught.value)
    assert makes.made == []


def test_the_last_seed_below_training_is_allowed():
    result = evaluate(ConstantPolicy(0), Makes(), 5, FIRST_TRAINING_ENV_SEED - 5, max_envs=2)
    assert result.episodes == 5


@pytest.mark.parametrize("episodes", [0, -3])
def test_no_episodes_are_refused(episodes):
    with pytest.raises(UsageError, match="one episode or more"):
        evaluate(ConstantPolicy(0), Makes(), episodes, first_seed=0)


def test_a_reward_that_is_not_finite_names_member_and_episode_and_closes_the_envs():
    class Broken(FakeEnvs):
        def step(self, action, active):
            obs, reward, terminated, truncated = super().step(action, active)
            return obs, np.where((self.seeds == 12) & (action == 1), np.nan, reward), terminated, truncated

    makes = Makes(Broken)
    with pytest.raises(RlabError, match="training seed 41 in the episode of seed 12 is nan"):
        evaluate(ConstantPolicy(0, 1, seeds=(40, 41)), makes, episodes=5, first_seed=10, max_envs=2)
    assert makes.made[0].closed


def test_an_episode_that_does_not_end_is_an_error_that_says_what_helps(monkeypatch):
    class Endless(FakeEnvs):
        def step(self, action, active):
            obs, reward, terminated, truncated = super().step(action, active)
            endless = self.seeds == 12
            self.over &= ~endless
            return obs, reward, terminated & ~endless, truncated & ~endless

    monkeypatch.setattr("rlab.evaluation.episode_driver.MOST_STEPS", 40)
    makes = Makes(Endless)
    with pytest.raises(RlabError, match=r"seed 12 of training seed 40 has not ended after 40 env steps.*--max-episode"):
        evaluate(ConstantPolicy(0, 1, seeds=(40, 41)), makes, episodes=5, first_seed=10)
    assert makes.made[0].closed


def test_an_episode_may_be_as_long_as_the_envs_own_time_limit(monkeypatch):
    class Long(FakeEnvs):
        """Every episode has 60 steps, under a limit of 70."""

        time_limit = 70

        def step(self, action, active):
            self.t += active
            return self._obs(), np.ones(len(active)), np.zeros(len(active), bool), self.t == 60

    monkeypatch.setattr("rlab.evaluation.episode_driver.MOST_STEPS", 50)
    result = evaluate(ConstantPolicy(0), Makes(Long), episodes=1, first_seed=59)
    assert result.lengths.tolist() == [[60]]

    monkeypatch.setattr(Long, "time_limit", 55)  # what does not end by its own limit never will
    with pytest.raises(RlabError, match=r"seed 59 of training seed 0 has not ended after 55 env steps\. That is"):
        evaluate(ConstantPolicy(0), Makes(Long), episodes=1, first_seed=59)


def test_the_maker_of_envs_says_how_many_to_have_at_once():
    makes = Makes()
    makes.most, makes.most_at_once = None, lambda members: 2 * members
    result = evaluate(ConstantPolicy(0, 1), makes, episodes=7, first_seed=10)
    assert [envs.num_envs for envs in makes.made] == [4]
    assert result.returns[1].tolist() == [return_of(10 + k, 1) for k in range(7)]


def test_an_evaluation_that_is_asked_to_stop_has_no_result_and_closes_its_envs():
    makes, asked = Makes(), []
    with pytest.raises(StoppedError):
        evaluate(ConstantPolicy(0), makes, 5, 10, should_stop=lambda: len(asked) == 3 or asked.append(None))
    assert makes.made[0].closed
    assert makes.made[0].steps == 5 + 4 + 3  # episodes of 1 to 5 steps, of which three were taken side by side


def test_actions_of_a_wrong_shape_are_an_error_and_not_a_broadcast():
    class OneForAll(ConstantPolicy):
        def __call__(self, obs):
            return np.zeros((1, obs.shape[1]), dtype=np.int64)

    with pytest.raises(ValueError, match=r"answered actions \(1, 3\) to observations \(2, 3, 2\)"):
        evaluate(OneForAll(0, 0), Makes(), episodes=3, first_seed=0)


# --- what an evaluation says ---


def evaluation(returns, seeds=None):
    returns = np.array(returns, dtype=np.float64)
    lengths = np.full(returns.shape, 10, dtype=np.int64)
    return Evaluation(seeds or tuple(range(len(returns))), 100_000, returns, lengths)


def test_iqm_and_intervals_are_over_the_members_means():
    # Means 1, 2, 3, 100: the interquartile mean drops 1 and 100.
    result = evaluation([[0, 2], [1, 3], [2, 4], [99, 101]])
    assert result.iqm == 2.5
    low, high = result.ci95
    assert 1.0 <= low < 2.5 < high <= 100.0
    # Episodes have means (0 + 1 + 2 + 99) / 4 = 25.5 and 27.5; resampling two episodes gives 25.5, 26.5 or 27.5.
    assert result.episodes_ci95 == (25.5, 27.5)


def test_one_seed_has_no_interval_over_seeds_and_one_episode_none_over_episodes():
    assert evaluation([[1, 2, 3]]).ci95 is None
    assert evaluation([[1, 2, 3]]).iqm == 2.0
    assert evaluation([[1], [2]]).episodes_ci95 is None
    assert evaluation([[1], [2]]).ci95 == (1.0, 2.0)


def test_json_has_the_promised_keys_and_plain_numbers():
    result = evaluation([[1, 3], [5, 5]], seeds=(7, 8))
    data = json.loads(json.dumps(result.to_json("runs/a", "dqn", "CartPole-v1"), allow_nan=False))
    assert data["per_seed"] == [
        {"seed": 7, "return_mean": 2.0, "return_std": 1.0, "return_min": 1.0, "length_mean": 10.0, "returns": [1, 3]},
        {"seed": 8, "return_mean": 5.0, "return_std": 0.0, "return_min": 5.0, "length_mean": 10.0, "returns": [5, 5]},
    ]
    del data["per_seed"]
    assert data == {
        "policy": "runs/a",
        "agent": "dqn",
        "env_id": "CartPole-v1",
        "greedy": True,
        "episodes": 2,
        "evaluation_env_steps": 40,
        "iqm": 3.5,
        "ci95": [2.0, 5.0],
        "ci95_coverage": 0.5,
        "episodes_ci95": [3.0, 4.0],
    }
    alone = evaluation([[1]]).to_json("p", "a", "e")
    assert alone["ci95"] is None
    assert alone["episodes_ci95"] is None


def test_summary_of_a_population_reads_well():
    played = "2 episodes each, episode seeds 100000 to 100001"
    assert evaluation([[500, 500], [496, 500]], seeds=(3, 4)).summary().splitlines() == [
        "      seed  mean return       std       min  mean length",
        "         3        500.0       0.0     500.0         10.0",
        "         4        498.0       2.0     496.0         10.0",
        f"499.0 [498.0, 500.0] mean return of these 2 learners, 95 % interval for other episodes ({played})",
        "499.0 [498.0, 500.0] IQM of 2 training seeds, 95 % interval for other seeds",
        "(an interval from 2 seeds is too narrow: it holds the true value in about 50 % of cases, not in 95 %; "
        "6 seeds come close, 10 reach it)",
    ]


def test_summary_of_one_seed_says_that_it_shows_nothing_about_others():
    text = evaluation([[0.25, 0.75]], seeds=(5,)).summary()
    assert "0.500 [0.250, 0.750] mean return of this learner, 95 % interval for other episodes (2 episodes, " in text
    assert text.splitlines()[-1].startswith("One run shows nothing about other training seeds")
    assert "IQM" not in text
    assert "one episode, seed 100000: it shows nothing about other episodes" in evaluation([[1.0]]).summary()
