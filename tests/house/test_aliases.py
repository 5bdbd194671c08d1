"""The names that settings have elsewhere: each row of the table leads to a setting of ours, in both ways of asking."""

import inspect
from dataclasses import fields

import pytest

import rlab
from rlab.agents import AGENTS, load_agent
from rlab.cli.eval import EvalOptions
from rlab.cli.main import main
from rlab.cli.train import TrainOptions
from rlab.errors import UsageError
from rlab.jobs.aliases import ALIASES, BY_NAME, POLICIES, Alias, answer
from rlab.runs.config import RunConfig, SourceConfig

KINDS = [RunConfig, SourceConfig, TrainOptions, EvalOptions]
PYTHON = set(inspect.signature(rlab.train).parameters)
OURS = PYTHON | {f.name for kind in (*KINDS, *(load_agent(name).Config for name in AGENTS)) for f in fields(kind)}  # type: ignore[attr-defined]

# What people who come from there write most; those that are ours too are left out.
ASKED = {
    "total_timesteps",
    "n_steps",
    "ent_coef",
    "vf_coef",
    "lr",
    "buffer_size",
    "train_freq",
    "gradient_steps",
    "target_update_interval",
    "tau",
    "exploration_fraction",
    "exploration_initial_eps",
    "exploration_final_eps",
    "start_e",
    "end_e",
    "clip_range",
    "clip_coef",
    "n_epochs",
    "update_epochs",
    "num_minibatches",
    "batch_size",
    "policy_kwargs",
    "net_arch",
    "verbose",
    "tensorboard_log",
    "n_envs",
    "anneal_lr",
    "norm_adv",
    "clip_vloss",
    "target_network_frequency",
    "train_frequency",
    "cuda",
    "capture_video",
    "save_model",
    "track",
    "exp_name",
    "torch_deterministic",
    "n_eval_episodes",
    "eval_freq",
    "deterministic",
}
SHARED = {
    "learning_rate",
    "learning_starts",
    "max_grad_norm",
    "gae_lambda",
    "num_envs",
    "target_kl",
    "seed",
    "device",
    "gamma",
}


@pytest.mark.parametrize("alias", ALIASES, ids=lambda alias: alias.theirs)
def test_every_row_leads_to_a_setting_that_there_is_or_says_what_happens_instead(alias: Alias) -> None:
    assert set(alias.ours) <= OURS
    assert alias.ours or alias.note
    # settings of ours that policy-gradient agents, or the verbs that judge, do not have
    assert alias.theirs not in OURS or alias.theirs in ("batch_size", "deterministic")


def test_no_name_stands_in_the_table_twice_and_none_that_people_ask_for_is_missing() -> None:
    assert len(BY_NAME) == len(ALIASES)
    assert BY_NAME.keys() >= ASKED
    assert SHARED <= OURS


@pytest.mark.parametrize(
    ("agent", "words", "said"),
    [
        ("dqn", "--total-timesteps 9", "unknown setting --total-timesteps for dqn: rlab calls it --env-steps; steps"),
        ("dqn", "--total_timesteps 9", "rlab calls it --env-steps; steps of all envs"),
        ("ppo", "--n_steps 9", "rlab calls it --rollout-steps; the same count"),
        ("dqn", "--n-steps 9", "rlab calls it --n-step; "),
        ("ppo", "--batch-size 9", "--minibatches; minibatches = rollout_steps x num_envs / batch_size."),
        ("dqn", "--train-freq=4", "rlab calls it --learn-every; learn_every counts env steps: train_freq x num_envs."),
        (
            "dqn",
            "--ent-coef 0.1",
            "rlab calls it --entropy-weight or --temperature, a setting of a2c, crossq, droq, ppo, reinforce, sac ",
        ),
        ("dqn", "--verbose 1", "this is Stable-Baselines3's name; the command line always shows a bar"),
        ("ppo", "--no-norm-adv", "rlab calls it --normalize-advantage."),
        ("ppo", "--norm-reward", "rlab calls it --reward-scaling; running."),
        ("dqn", "--norm-reward", "rlab calls it --reward-scaling, a setting of a2c, ppo, reinforce alone."),
        (
            "ppo",
            "--learning-starts 9",
            "--learning-starts for ppo: it is a setting of crossq, ddpg, dqn, double_dqn, droq, rainbow, sac, td3 ",
        ),
        ("ppo", "--no-dueling", "--no-dueling for ppo: it is a setting of cql, dqfd, dqn, double_dqn, rainbow alone."),
        ("dqn", "--wrapper-class X", "rlab calls it --wrapper; NAME or module:Class"),
    ],
)
def test_the_command_line_answers_a_name_from_elsewhere_with_ours(
    capsys: pytest.CaptureFixture[str], agent: str, words: str, said: str
) -> None:
    assert main(["train", agent, "CartPole-v1", *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_python_answers_a_name_from_elsewhere_with_ours() -> None:
    with pytest.raises(UsageError) as caught:
        rlab.train("dqn", "CartPole-v1", total_timesteps=9)
    said = "rlab.train: unknown setting total_timesteps: rlab calls it env_steps (--env-steps); steps of all"
    assert str(caught.value).startswith(said)
    with pytest.raises(UsageError, match=r"rlab\.evaluate: unknown setting n_eval_episodes: rlab calls it episodes"):
        rlab.evaluate("runs/none", n_eval_episodes=3)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"rlab\.play: unknown setting deterministic: rlab calls it stochastic .*opp"):
        rlab.play("runs/none", deterministic=True)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"rlab\.resume: unknown setting total_timesteps: rlab calls it env_steps \("):
        rlab.resume("runs/none", total_timesteps=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'zzz'"):
        rlab.evaluate("runs/none", zzz=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_policy_of_stable_baselines_in_the_place_of_a_word_is_answered(
    capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    for words in (["ppo", policy, "CartPole-v1"], [policy, "CartPole-v1"], ["ppo", "CartPole-v1", policy]):
        assert main(["train", *words]) == 2
        assert f"{policy}: in rlab the network follows from the observations" in capsys.readouterr().err
    for words in (["ppo", policy], [policy, "CartPole-v1"]):
        with pytest.raises(UsageError, match="the network follows from the observations"):
            rlab.train(*words)


@pytest.mark.parametrize(
    ("agent", "name", "said"),
    [
        ("ppo", "tensorboard_log", "unknown setting tensorboard_log: rlab calls it out (--out); the run folder, "),
        ("ppo", "best_model_save_path", "rlab calls it out (--out); the run folder, where best/ is"),
        (
            "ppo",
            "learning_starts",
            "unknown setting learning_starts: it is a setting of crossq, ddpg, dqn, double_dqn, droq, rainbow, sac, ",
        ),
        ("dqn", "reward_scaling", "unknown setting reward_scaling: it is a setting of a2c, ppo, reinforce alone."),
        ("dqn", "normalize", "rlab calls it obs_scaling (--obs-scaling); the value running is what VecNormalize does."),
        ("dqn", "total_steps", "rlab calls it env_steps (--env-steps); "),
        ("dqn", "steps", "rlab calls it env_steps (--env-steps); "),
        ("dqn", "wrapper", "unknown setting wrapper. Did you mean wrappers?"),
        ("dqn", "wrapper_class", "rlab calls it wrappers (--wrapper); NAME or module:Class"),
        ("dqn", "vec_env_cls", "rlab calls it vector (--vector); sync, async or native"),
        ("dqn", "features_extractor_class", "rlab calls it network (--network); module:function"),
        ("dqn", "callbacks", "this is Stable-Baselines3's name; Python has listeners=[...]"),
        ("dqn", "use_sde", "this is Stable-Baselines3's name; rlab has no state-dependent exploration"),
    ],
)
def test_python_says_what_to_write_where_a_name_is_of_another_library_or_agent(
    agent: str, name: str, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        rlab.train(agent, "CartPole-v1", **{name: 1})
    assert said in str(caught.value)


def test_an_agent_and_an_env_in_each_others_place_are_put_right(capsys: pytest.CaptureFixture[str]) -> None:
    said = "the agent comes first: rlab train dqn CartPole-v1, or rlab.train('dqn', 'CartPole-v1')."
    with pytest.raises(UsageError) as caught:
        rlab.train("CartPole-v1", "dqn")
    assert str(caught.value) == said
    assert main(["train", "CartPole-v1", "dqn"]) == 2
    assert capsys.readouterr().err == f"rlab: {said}\n"


def test_an_unknown_name_is_compared_with_all_that_a_call_may_set() -> None:
    with pytest.raises(UsageError, match=r"unknown setting env_step\. Did you mean env_steps\?"):
        rlab.train("dqn", "CartPole-v1", env_step=5)


def test_a_name_that_is_nobodys_has_no_answer() -> None:
    assert answer("zzz", OURS, as_flags=True) is None
