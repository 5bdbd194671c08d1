"""A member of a stack with settings of its own learns what a single run with these settings learns."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlab.agents import load_agent
from rlab.errors import UsageError
from rlab.learning.per_member import apart, change, check_per_member, per_member, settings_per_member
from rlab.learning.programs import CompiledPrograms

SEED = 5
Q = {"hidden": (16,), "learning_starts": 64, "learn_every": 8, "updates_per_learn": 2, "batch_size": 16}
Q |= {"target_every": 50, "n_step": 2, "munchausen": True, "replay": "prioritised", "lr_schedule": "linear"}
Q |= {"learning_rate": 1e-2, "max_grad_norm": 0.05, "lr_warmup_fraction": 0.1, "epsilon_fraction": 0.8}
# every setting that may differ, with a value that is not the one of `Q`
Q_VALUES: dict[str, Any] = {
    "learning_rate": 3e-3,
    "lr_final": 0.9,
    "lr_warmup_fraction": 0.5,
    "max_grad_norm": None,
    "gamma": 0.5,
    "n_step": 3,
    "target_every": 8,
    "target_tau": 0.3,
    "epsilon_start": 0.5,
    "epsilon_end": 0.6,
    "epsilon_fraction": 0.2,
    "munchausen_alpha": 0.1,
    "munchausen_temperature": 0.5,
    "munchausen_clip": -0.1,
    "priority_beta": 1.0,
}
ROLLOUT = {"hidden": (16,), "rollout_steps": 10, "entropy_weight": 0.01, "lr_warmup_fraction": 0.1}
ROLLOUT |= {"reward_scaling": "running", "learning_rate": 3e-3}
ROLLOUT_VALUES: dict[str, Any] = {
    "learning_rate": 1e-3,
    "lr_final": 0.9,
    "lr_warmup_fraction": 0.5,
    "max_grad_norm": 0.05,
    "gamma": 0.5,
    "gae_lambda": 0.3,
    "value_weight": 2.0,
    "entropy_weight": 50.0,
    "entropy_final": 900.0,
}
PPO = {"epochs": 2, "minibatches": 2, "clip_value": 0.01, "target_kl": 1e-2, "clip": 0.01, "max_grad_norm": 0.5}
PPO_VALUES = {"clip": 0.3, "clip_final": 0.1, "clip_value": None, "target_kl": 1e-5}
NUMBERS = {"hidden": (16,), "learning_starts": 64, "learn_every": 4, "batch_size": 16, "n_step": 2}
NUMBERS |= {"lr_schedule": "linear", "max_grad_norm": 0.5, "replay": "prioritised", "lr_warmup_fraction": 0.1}
NUMBERS |= {"learning_rate": 1e-2}
NUMBERS_VALUES: dict[str, Any] = {
    "learning_rate": 3e-3,
    "lr_final": 0.9,
    "lr_warmup_fraction": 0.5,
    "max_grad_norm": None,
    "gamma": 0.5,
    "n_step": 3,
    "target_tau": 0.3,
    "priority_beta": 1.0,
}
TD3_VALUES = {"exploration_scale": 0.5, "target_noise": 1.0, "noise_clip": 0.01}
WITH_DEMONSTRATIONS = ("demonstration_weight", "margin", "cloning_weight")  # which these runs have none of
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dqn": ("CartPole-v1", Q, Q_VALUES),
    "double_dqn": ("CartPole-v1", Q, Q_VALUES),
    "rainbow": ("CartPole-v1", {**Q, "noisy": False}, Q_VALUES),
    "a2c": ("CartPole-v1", ROLLOUT, ROLLOUT_VALUES),
    "reinforce": ("CartPole-v1", ROLLOUT, {n: v for n, v in ROLLOUT_VALUES.items() if n != "gae_lambda"}),
    "ppo": ("CartPole-v1", {**ROLLOUT, **PPO}, {**ROLLOUT_VALUES, **PPO_VALUES}),
    "sac": ("CartPole-v1", NUMBERS, {**NUMBERS_VALUES, "entropy_share": 1.0}),
    "td3": ("Pendulum-v1", {**NUMBERS, "target_noise": 0.5}, {**NUMBERS_VALUES, **TD3_VALUES}),
    "ddpg": ("Pendulum-v1", {**NUMBERS, "target_noise": 0.5}, {**NUMBERS_VALUES, **TD3_VALUES}),
    "droq": ("CartPole-v1", {**NUMBERS, "utd": 1}, {**NUMBERS_VALUES, "entropy_share": 1.0}),
    "crossq": ("Pendulum-v1", NUMBERS, {n: v for n, v in NUMBERS_VALUES.items() if n != "target_tau"}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_setting_that_may_differ_is_tested(name: str) -> None:
    assert set(settings_per_member(load_agent(name))) - set(WITH_DEMONSTRATIONS) == set(CASES[name][2])


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_members_with_settings_of_their_own_learn_what_runs_with_these_learn(lab: SimpleNamespace, name: str) -> None:
    values = CASES[name][2]
    compare(lab, name, 136, [{}, values, {setting: values[setting] for setting in [*values][::2]}])


@pytest.mark.prove
@pytest.mark.parametrize("name", CASES)
def test_each_setting_alone_makes_of_a_member_what_a_run_with_it_learns(lab: SimpleNamespace, name: str) -> None:
    compare(lab, name, 240, [{}, *({setting: value} for setting, value in CASES[name][2].items())])


def compare(lab: SimpleNamespace, name: str, env_steps: int, each: list[dict[str, Any]]) -> None:
    """Hold a stack of members with settings of their own, all of one seed, against a run with each of them."""
    env_id, settings, _ = CASES[name]
    together = learned(lab.train_members(name, env_id, [SEED] * len(each), env_steps, each=each, **settings))
    for i, own in enumerate(each):
        alone = learned(lab.train_members(name, env_id, [SEED], env_steps, **{**settings, **own}))
        for tensor, value in alone.items():
            torch.testing.assert_close(together[tensor][i : i + 1], value, rtol=1e-3, atol=1e-4, msg=f"{own} {tensor}")
        if own:
            assert any(not torch.allclose(together[t][i], together[t][0], atol=1e-3) for t in together), own


@pytest.mark.parametrize(
    "more", [{}, {"noisy": True, "learn_every": 16, "updates_per_learn": 2}], ids=["epsilon", "noise"]
)
def test_in_programs_members_learn_with_settings_of_their_own_what_they_learn_without(
    more: dict[str, Any], lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise exploration changes its kind where learning starts, in the middle of a cycle."""
    monkeypatch.setattr("rlab.learning.program.compiled", lambda graph, arguments: graph)  # without compiler's time
    notes: list[str] = []
    env_id = "CartPole-v1"
    settings = {"hidden": (8,), "learning_starts": 64, "learn_every": 8, "updates_per_learn": 1, **more}
    own = {"learning_rate": 1e-2, "gamma": 0.5, "epsilon_end": 0.6, "target_tau": 0.3, "n_step": 2}
    each: list[dict[str, Any]] = [{}, own]
    programs = CompiledPrograms(torch.device("cpu"), notes.append)
    found = [
        learned(lab.train_members("dqn", env_id, [SEED] * 2, 104, each=each, **how, **settings))
        for how in ({}, {"programs": programs})
    ]
    assert not notes
    for tensor, value in found[0].items():
        torch.testing.assert_close(found[1][tensor], value, rtol=1e-3, atol=1e-4, msg=tensor)


def test_in_programs_a_scheduled_number_that_changes_its_shape_is_named() -> None:
    programs = CompiledPrograms(torch.device("cpu"), print)
    one: dict[str, Any] = {"rate": 0.5, "epsilon": 1.0}
    programs.scalars([one, one])
    with pytest.raises(UsageError, match=r"gives as 'epsilon' was of shape \(\) at first and is of shape \(3,\) later"):
        programs.scalars([one, {**one, "epsilon": np.ones(3)}])
    with pytest.raises(UsageError, match=r"gives as 'beta' was missing at first and is of shape \(\) later"):
        programs.scalars([{**one, "beta": 0.4}])


def test_a_setting_that_an_agent_has_once_for_all_members_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"^ppo has one hidden and one epochs for all members; .*: learning_rate, .*c"):
        check_per_member("ppo", load_agent("ppo"), ["hidden", "clip", "epochs"])
    with pytest.raises(UsageError, match=r"^own:Agent has one gamma for all members; .*none: its class has no `per_m"):
        check_per_member("own:Agent", type("Agent", (), {}), ["gamma"])


def test_settings_change_in_place_so_that_programs_go_on_with_the_new_ones() -> None:
    config = load_agent("dqn").Config  # type: ignore[attr-defined]
    whole = apart([config(gamma=0.5), config(gamma=0.9)], ["gamma", "max_grad_norm"], torch.device("cpu"))
    held = whole.gamma
    assert per_member(whole, lambda each: each.gamma).tolist() == [0.5, 0.9]
    change(whole, [config(gamma=0.25, max_grad_norm=None), config(gamma=0.9)])
    assert whole.gamma is held
    assert held.tolist() == [[0.25], [pytest.approx(0.9)]]
    assert whole.max_grad_norm.tolist() == [[float("inf")], [10.0]]
    assert per_member(whole, lambda each: each.gamma).tolist() == [0.25, 0.9]
    with pytest.raises(ValueError, match="members differ in batch_size, not in gamma, max_grad_norm alone"):
        change(whole, [config(), config(batch_size=3)])


def learned(agent: Any) -> dict[str, torch.Tensor]:
    critic = next((getattr(agent, name).state_dict() for name in ("critic", "critics") if hasattr(agent, name)), {})
    return {**agent.policy().state_dict(), **{f"critic.{name}": value for name, value in critic.items()}}
