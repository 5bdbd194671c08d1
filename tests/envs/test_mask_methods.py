"""Masks by a method `action_masks()`, as sb3-contrib asks for: found in every use of an env, through wrappers."""

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab.envs import EnvSpec, GymVectorEnv, make_env, make_episodes, make_vec
from rlab.errors import RlabError, UsageError

SMALL = {"env_steps": 96, "num_envs": 2, "eval_every": 48, "eval_episodes": 2, "final_eval_episodes": 3}


class TwoOfSix(gym.Env):
    """Allows two of six actions, which move on at every step; each step pays 1, a forbidden one raises."""

    observation_space = gym.spaces.Box(0.0, 8.0, (1,), np.float32)
    action_space: gym.Space = gym.spaces.Discrete(6)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def allowed(self):
        return np.isin(np.arange(6), (self.t % 6, (self.t + 1) % 6))

    def action_masks(self):
        assert self.t < 7, "a world that has ended is not asked"
        return self.allowed()

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.array([0], np.float32), {}

    def step(self, action):
        assert self.allowed()[action], f"forbidden action {action} at step {self.t}"
        self.t += 1
        return np.array([self.t], np.float32), 1.0, self.t == 7, False, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)


class BothWays(TwoOfSix):
    """Gives the mask in its info, too; from step `lies_from` on another one."""

    def __init__(self, render_mode=None, lies_from=99):
        super().__init__(render_mode)
        self.lies_from = lies_from

    def info(self):
        return {"action_mask": np.roll(self.allowed(), int(self.t >= self.lies_from))}

    def reset(self, **kwargs):
        return super().reset(**kwargs)[0], self.info()

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, self.info()


class Plate(TwoOfSix):
    """Two choices of two and three options, with the mask as a list of arrays; the first option of each is allowed."""

    action_space = gym.spaces.MultiDiscrete([2, 3])

    def action_masks(self):
        return [np.array([True, False]), np.array([True, False, False])]

    def step(self, action):
        assert action.tolist() == [0, 0]
        self.t += 1
        return np.array([self.t], np.float32), 1.0, self.t == 7, False, {}


class Torques(TwoOfSix):
    action_space = gym.spaces.Box(-1.0, 1.0, (6,))


class MaskingWrapper(gym.Wrapper):
    """A wrapper that narrows the mask down to its first action."""

    def action_masks(self):
        mask = self.env.get_wrapper_attr("action_masks")()
        return mask & (np.arange(6) == np.flatnonzero(mask)[0])


@pytest.mark.parametrize(("agent", "vector"), [("dqn", "sync"), ("ppo", "async"), ("a2c", "sync")])
def test_no_forbidden_step_in_training_judging_recording_and_play(register, tmp_path, agent, vector):
    env_id = register(TwoOfSix)
    own = {"learning_starts": 16} if agent == "dqn" else {"rollout_steps": 16}
    run = rlab.train(agent, env_id, out=tmp_path / "run", vector=vector, experiment="none", **SMALL, **own)
    assert run.evaluation.returns.tolist() == [[7.0, 7.0, 7.0]]
    if agent == "dqn":
        assert rlab.collect(run.path, tmp_path / "data", episodes=2, noise=0.5).dataset.returns.tolist() == [7.0, 7.0]
        assert rlab.collect_random(env_id, tmp_path / "random", episodes=2).dataset.returns.tolist() == [7.0, 7.0]
        assert rlab.play(run.path, frames=True).returns == (7.0,)
        policy, env = rlab.load(run.path), TwoOfSix()
        obs, _ = env.reset()
        for _ in range(7):
            obs, *_ = env.step(policy(obs, mask=env.allowed()))


def test_the_method_is_found_through_wrappers_and_the_outermost_counts(register):
    env_id = register(TwoOfSix, max_episode_steps=5)
    plain = make_env(EnvSpec.parse(env_id, wrappers=["FlattenObservation"]))
    narrow = make_env(EnvSpec.parse(env_id, wrappers=[f"{__name__}:MaskingWrapper", "FlattenObservation"]))
    assert plain.reset(seed=0)[0].tolist() == [0, 1, 1, 0, 0, 0, 0]
    assert narrow.reset(seed=0)[0].tolist() == [0, 1, 0, 0, 0, 0, 0]
    for t in range(1, 6):  # the last step is cut off by the time limit: its world goes on, and so does its mask
        obs, _, terminated, truncated, _ = plain.step(t - 1)
        assert obs[1:].tolist() == [float(a in (t % 6, (t + 1) % 6)) for a in range(6)]
    assert (terminated, truncated) == (False, True)


def test_a_mask_in_both_places_is_compared(register):
    equal = make_env(EnvSpec(register(BothWays)))
    assert equal.reset(seed=0)[0].tolist() == [0, 1, 1, 0, 0, 0, 0]
    env_id = register(BothWays, kwargs={"lies_from": 2})
    envs = make_episodes(EnvSpec(env_id), 1)
    envs.reset([5])
    envs.step(np.array([0]), np.array([True]))
    with pytest.raises(RlabError, match=r"seed 5 at step 2: its action_mask and its action_masks\(\) differ; give one"):
        envs.step(np.array([1]), np.array([True]))
    training = make_vec(EnvSpec(env_id), (3,), 1)
    training.reset()
    training.step(np.array([[0]]))
    with pytest.raises(RlabError, match=r"env 0 of seed 3 at vector step 2: its action_mask and its action_masks\(\)"):
        training.step(np.array([[1]]))


def test_masks_of_several_choices_may_be_a_list_of_arrays(register):
    envs = make_episodes(EnvSpec(register(Plate)), 1)
    assert envs.reset([0]).tolist() == [[0, 1, 0, 1, 0, 0]]


def test_a_method_for_actions_that_cannot_be_masked_is_named(register):
    env_id = register(Torques)
    with pytest.raises(UsageError, match=r"gives an action_masks\(\), and its actions are .*; only Discrete and Multi"):
        make_env(EnvSpec(env_id))


class Nothing(TwoOfSix):
    def action_masks(self):
        return np.full(6, self.t == 0)


class Five(TwoOfSix):
    def action_masks(self):
        return np.ones(5, bool)


def test_a_method_that_allows_nothing_or_does_not_fit_is_named(register):
    env = make_env(EnvSpec(register(Nothing)))
    env.reset(seed=0)
    with pytest.raises(RlabError, match=r"its action_masks\(\) allows no action, though the episode goes on"):
        env.step(0)
    with pytest.raises(UsageError, match=r"the action_masks\(\) of .* must be 6 zeros and ones, not 5"):
        make_env(EnvSpec(register(Five)))


class ListOfLists(gym.Env):
    """Gives the mask of two choices as a list of lists of bits, `[[1, 0], [0, 1, 0]]`."""

    observation_space = gym.spaces.Box(0.0, 8.0, (1,), np.float32)

    def __init__(self, sizes=(2, 3)):
        self.action_space = gym.spaces.MultiDiscrete(sizes)

    def info(self):
        return {"action_mask": [[int(i == size - 1) for i in range(size)] for size in self.action_space.nvec]}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), self.info()

    def step(self, action):
        assert (action == self.action_space.nvec - 1).all()
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t == 5, False, self.info()


@pytest.mark.parametrize(("sizes", "bits"), [((2, 3), [0, 1, 0, 0, 1]), ((2, 2), [0, 1, 0, 1])])
def test_a_mask_may_be_a_list_of_lists(register, sizes, bits):
    env_id = register(lambda: ListOfLists(sizes))
    assert make_env(EnvSpec(env_id)).reset(seed=0)[0].tolist() == [0, *bits]


@pytest.mark.parametrize(
    ("mask", "found"),
    [([[1, 0], [0, 1, 0]], "2 and 3"), ([[1, [0]], [1, 1, 1]], "something else"), ({1: 2}, "something else")],
)
def test_a_mask_of_lists_that_does_not_fit_is_refused_in_one_line(register, mask, found):
    class Wrong(ListOfLists):
        def info(self):
            return {"action_mask": mask}

    env_id = register(lambda: Wrong((3, 3)))
    with pytest.raises(UsageError, match=rf"^the action_mask of {env_id} must be 6 zeros and ones, not {found}\.$"):
        make_env(EnvSpec(env_id))


class MaskAsProperty(TwoOfSix):
    action_masks = property(TwoOfSix.allowed)


def test_a_property_action_masks_is_asked_as_the_method_is(register):
    env_id = register(lambda: gym.wrappers.TimeLimit(MaskAsProperty(), 50))
    for vector in ("sync", "async"):
        env = make_vec(EnvSpec(env_id), (0,), 1, vector)
        assert env.reset().tolist() == [[[0, 1, 1, 0, 0, 0, 0]]]
        assert env.step(np.array([[1]])).obs.tolist() == [[[1, 0, 1, 1, 0, 0, 0]]]
        env.close()


class MaskLate(TwoOfSix):
    """Has a mask in its info from the second step on."""

    action_masks = None

    def step(self, action):
        self.t += 1
        info = {"action_mask": self.allowed()} if self.t >= 2 else {}
        return np.array([self.t], np.float32), 1.0, self.t == 7, False, info


def test_a_mask_that_begins_after_the_first_step_is_an_error_and_not_ignored(register):
    spec = EnvSpec(register(MaskLate))
    why = (
        r"its info has an 'action_mask', though that of its first reset and step had none; give one in every reset and "
        r"step\.$"
    )
    for vector in ("sync", "async"):
        env = make_vec(spec, (3,), 1, vector)
        env.reset()
        env.step(np.array([[5]]))
        with pytest.raises(RlabError, match=rf"^{spec.env_id} failed in env 0 of seed 3 at vector step 2: {why}"):
            env.step(np.array([[5]]))
    alone = make_env(spec)
    alone.reset(seed=4)
    alone.step(5)
    with pytest.raises(RlabError, match=rf"^{spec.env_id} failed in the episode of seed 4 at step 2: {why}"):
        alone.step(5)
    found = rlab.check(MaskLate, steps=20)
    assert [(each.code, each.severity) for each in found.findings if each.severity == "error"] == [("mask", "error")]


def test_a_mask_in_the_info_of_a_foreign_vector_env_is_refused(counting):
    class Masking(counting.VectorEnv):
        def reset(self, **kwargs):
            return super().reset(**kwargs)[0], {"action_mask": np.ones((3, 3), bool)}

    with pytest.raises(
        RlabError,
        match=r"^Masking failed at vector step 0: its info has an 'action_mask', which only envs that rlab makes one "
        r"by one may give \(--vector sync\)\.$",
    ):
        GymVectorEnv(Masking(3, "NextStep"), (0,), "Masking").reset()


def test_check_notes_a_method_whose_name_is_nearly_the_one_that_is_asked():
    class Near(TwoOfSix):
        action_masks = None

        def valid_action_mask(self):
            return self.allowed()

        def step(self, action):
            self.t += 1
            return np.array([self.t], np.float32), 1.0, self.t == 7, False, {}

    lines = [each.line() for each in rlab.check(Near, steps=20).findings]
    assert (
        "note     mask-name: it has 'valid_action_mask', which rlab does not use: any action may be chosen; if it "
        "gives the allowed actions, name it action_masks(), or give info['action_mask'] each time"
    ) in lines
