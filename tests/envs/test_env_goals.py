"""What an env is asked about goals: batches and single rows, tensors and NumPy, and envs that cannot be asked."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlab.envs import EnvSpec, TensorVectorEnv, env_spec, make_vec, tensor_env_of
from rlab.envs.goals import goals_of
from rlab.envs.ids import ON_DEMAND
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.experience.border import HostEnv
from rlab.experience.goals import GoalPlaces

CPU = torch.device("cpu")
GOAL = gym.spaces.Box(-9.0, 9.0, (2,), np.float64)


class Reach(gym.Env):
    """A point that moves by its action; -1 for every step that does not end near the goal."""

    observation_space = gym.spaces.Dict(observation=GOAL, achieved_goal=GOAL, desired_goal=GOAL)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.goal, self.t = np.zeros(2), self.np_random.uniform(-1.0, 1.0, 2), 0
        return self.seen(), {}

    def seen(self):
        return {"observation": self.at.copy(), "achieved_goal": self.at.copy(), "desired_goal": self.goal.copy()}

    def step(self, action):
        self.at, self.t = np.clip(self.at + action, -9.0, 9.0), self.t + 1
        return self.seen(), self.paid(), False, self.t == 10, {}

    def paid(self):
        return float(self.compute_reward(self.at, self.goal, {}))

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -(np.linalg.norm(achieved_goal - desired_goal, axis=-1) > 0.5).astype(np.float64)


class RowByRow(Reach):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return -1.0 if np.linalg.norm(achieved_goal - desired_goal) > 0.5 else 0.0


class PaysForMoving(Reach):
    def paid(self):
        return super().paid() - 0.1


class WithoutReward(Reach):
    compute_reward = None

    def paid(self):
        return 0.0


class GivesNan(Reach):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return np.where(
            np.abs(achieved_goal).max(axis=-1) == 9.0, np.nan, super().compute_reward(achieved_goal, desired_goal, info)
        )


class ReadsInfo(Reach):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return info["distance"]

    def paid(self):
        return 0.0


class EndsAtGoal(Reach):
    def compute_terminated(self, achieved_goal, desired_goal, info):
        return bool(np.linalg.norm(achieved_goal - desired_goal) <= 0.5)  # of single rows alone


def asked(env):
    spec = env if isinstance(env, EnvSpec) else env_spec(env)
    host = HostEnv(make_vec(spec, (0,), 1), CPU)
    try:
        return goals_of(spec, host)
    finally:
        host.close()


def pairs():
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.uniform(-1.0, 1.0, (2, 3, 4, 2))) for _ in range(2)]


def test_rewards_of_a_batch_are_those_of_its_rows():
    achieved, desired = pairs()
    goals = asked(Reach)
    far = (achieved - desired).square().sum(dim=-1).sqrt() > 0.5
    assert torch.equal(goals.reward(achieved, desired), -far.float())
    assert goals.on_host
    assert goals.terminated is None
    assert goals.places == GoalPlaces(slice(2, 4), slice(4, 6), goals.places.space)  # the order of the Dict


def test_a_method_for_single_rows_is_asked_row_by_row_with_a_warning_where_it_is_the_reward():
    achieved, desired = pairs()
    with pytest.warns(RlabWarning, match="does not answer batches: hindsight asks it row by row"):
        slow = asked(RowByRow)
    assert torch.equal(slow.reward(achieved, desired), asked(Reach).reward(achieved, desired))
    near = (achieved - desired).square().sum(dim=-1).sqrt() <= 0.5
    assert torch.equal(asked(EndsAtGoal).terminated(achieved, desired), near)


@pytest.mark.parametrize(
    ("env", "error", "message"),
    [
        (PaysForMoving, UsageError, r"a step of .* paid -0.1 and its compute_reward says 0; .* two goals alone"),
        (WithoutReward, UsageError, r"has no method compute_reward; it takes a Dict observation"),
        (ReadsInfo, RlabError, r"compute_reward of .* failed: KeyError"),
        (EnvSpec("CartPole-v1"), UsageError, r"CartPole-v1 has no goals in its observations"),
    ],
)
def test_an_env_that_cannot_be_asked_is_refused_in_one_line(env, error, message):
    with pytest.raises(error, match=message):
        asked(env)


def test_an_answer_that_is_not_finite_names_the_env():
    goals = asked(GivesNan)
    with pytest.raises(RlabError, match=r"compute_reward of .*GivesNan gave .* not finite"):
        goals.reward(torch.full((1, 2), 9.0).double(), torch.zeros(1, 2).double())


def test_a_tensor_env_and_its_gymnasium_env_answer_alike():
    spec = EnvSpec("rlab/ProbeBitFlip-v0", {"bits": 3})
    host, tensors = asked(spec), goals_of(spec, TensorVectorEnv(tensor_env_of(spec), (0,), 1))
    bits = torch.cartesian_prod(*[torch.arange(2, dtype=torch.uint8)] * 6)  # all pairs of goals
    achieved, desired = bits[:, :3], bits[:, 3:]
    reached = (achieved == desired).all(dim=-1)
    for goals in (host, tensors):
        assert torch.equal(goals.reward(achieved, desired), reached.float() - 1.0)
        assert torch.equal(goals.terminated(achieved, desired), reached)
    assert host.places == tensors.places
    assert (host.on_host, tensors.on_host) == (True, False)


def test_the_stated_values_of_the_bits_solve_bellmans_equation():
    # By the number w of wrong bits: an action makes it w - 1 or w + 1.
    gamma, bits = 0.9, 5
    value = [0.0, *(-(1.0 - gamma ** (w - 1)) / (1.0 - gamma) for w in range(1, bits + 1))]  # 0: the episode is over
    for w in range(1, bits + 1):
        right = 0.0 if w == 1 else -1.0 + gamma * value[w - 1]
        wrong = -1.0 + gamma * value[w + 1] if w < bits else -np.inf
        assert value[w] == pytest.approx(max(right, wrong))


def test_the_best_policy_of_the_chain_is_paid_ten_times():
    for cells in (3, 10, 30):
        env = gym.make("rlab/ProbeChain-v0", cells=cells)
        env.reset(seed=0)
        total, over, steps = 0.0, False, 0
        while not over:
            _, reward, terminated, over, _ = env.step(1)
            total, steps = total + reward, steps + 1
        assert (total, terminated, steps) == (10.0, False, cells + 7)


@pytest.mark.skipif(not ON_DEMAND["Fetch"].installed, reason="needs the extra robotics")
@pytest.mark.filterwarnings("ignore")  # of the packages of the extra
def test_a_robot_arm_and_a_maze_answer():
    for env_id in ("FetchReach-v4", "PointMaze_UMaze-v3"):
        goals = asked(EnvSpec(env_id))
        width = goals.places.achieved.stop - goals.places.achieved.start
        same, far = torch.zeros(1, 5, width).double(), torch.ones(1, 5, width).double()
        assert (goals.reward(same, same) > goals.reward(same, far)).all()
        assert not goals.terminated(same, far).any()
