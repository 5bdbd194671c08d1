"""Names that settings have in Stable-Baselines3 and CleanRL: a user who writes one of them is shown the name in rlab.

None of them is accepted silently: where a name differs, the unit often does too.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple, ParamSpec, TypeVar

from rlab.agents import AGENTS, load_agent
from rlab.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")
SB3, CLEANRL, BOTH, OTHERS = "Stable-Baselines3", "CleanRL", "Stable-Baselines3, CleanRL", "many libraries"
POLICIES = frozenset({"MlpPolicy", "CnnPolicy", "MultiInputPolicy"})


class Alias(NamedTuple):
    """One name of another library."""

    theirs: str
    of: str  # the library that has it
    ours: tuple[str, ...]  # settings of rlab, the likeliest first; () where none corresponds
    note: str = ""  # how to convert it, or what happens instead


ALIASES = (
    Alias("total_timesteps", BOTH, ("env_steps",), "steps of all envs of one seed together, as there"),
    Alias("total_steps", OTHERS, ("env_steps",), "steps of all envs of one seed together"),
    Alias("timesteps", OTHERS, ("env_steps",), "steps of all envs of one seed together"),
    Alias("steps", OTHERS, ("env_steps",), "steps of all envs of one seed together"),
    Alias("n_steps", SB3, ("rollout_steps", "n_step"), "the same count: steps of each env between updates"),
    Alias("num_steps", CLEANRL, ("rollout_steps",), "the same count: steps of each env between updates"),
    Alias("n_envs", SB3, ("num_envs",), "for each seed"),
    Alias("lr", BOTH, ("learning_rate",)),
    Alias("ent_coef", BOTH, ("entropy_weight", "temperature"), "SB3's auto is a temperature of None"),
    Alias("vf_coef", BOTH, ("value_weight",), "rlab halves the squared error, as CleanRL does: 0.5 of SB3 is 1.0 here"),
    Alias("clip_range", SB3, ("clip",)),
    Alias("clip_coef", CLEANRL, ("clip",)),
    Alias("clip_range_vf", SB3, ("clip_value",)),
    Alias("clip_vloss", CLEANRL, ("clip_value",), "a number, such as CleanRL's clip_coef; None does not clip"),
    Alias("n_epochs", SB3, ("epochs",)),
    Alias("update_epochs", CLEANRL, ("epochs",)),
    Alias("num_minibatches", CLEANRL, ("minibatches",)),
    Alias("batch_size", SB3, ("batch_size", "minibatches"), "minibatches = rollout_steps x num_envs / batch_size"),
    Alias("minibatch_size", CLEANRL, ("minibatches",), "minibatches = rollout_steps x num_envs / minibatch_size"),
    Alias("norm_adv", CLEANRL, ("normalize_advantage",)),
    Alias("anneal_lr", CLEANRL, ("lr_schedule", "lr_final"), "true is lr_schedule linear with lr_final 0"),
    Alias("buffer_size", BOTH, ("replay_capacity",), "transitions of all envs of one seed together"),
    Alias("train_freq", SB3, ("learn_every",), "learn_every counts env steps: train_freq x num_envs"),
    Alias("train_frequency", CLEANRL, ("learn_every",), "in env steps"),
    Alias("gradient_steps", SB3, ("updates_per_learn",), "-1 is as many as learn_every"),
    Alias("alpha", CLEANRL, ("temperature",)),
    Alias("autotune", CLEANRL, ("temperature",), "None is the one that keeps the entropy at its target"),
    Alias("policy_frequency", CLEANRL, ("policy_delay",)),
    Alias("policy_noise", CLEANRL, ("target_noise",)),
    Alias("target_policy_noise", SB3, ("target_noise",)),
    Alias("target_noise_clip", SB3, ("noise_clip",)),
    Alias("action_noise", SB3, ("exploration_noise", "exploration_scale"), "a name, and its standard deviation"),
    Alias("policy_lr", CLEANRL, ("learning_rate",), "of all networks"),
    Alias("q_lr", CLEANRL, ("learning_rate",), "of all networks"),
    Alias("target_update_interval", SB3, ("target_every",), "in env steps"),
    Alias("target_network_frequency", CLEANRL, ("target_every",), "in env steps"),
    Alias("tau", BOTH, ("target_tau",)),
    Alias("polyak", SB3, ("target_tau",), "target_tau = 1 - polyak"),
    Alias("exploration_fraction", BOTH, ("epsilon_fraction",)),
    Alias("exploration_initial_eps", SB3, ("epsilon_start",)),
    Alias("exploration_final_eps", SB3, ("epsilon_end",)),
    Alias("start_e", CLEANRL, ("epsilon_start",)),
    Alias("end_e", CLEANRL, ("epsilon_end",)),
    Alias("use_rms_prop", SB3, ("optimizer",), "rmsprop"),
    Alias("rms_prop_eps", SB3, ("optimizer_eps",)),
    Alias("policy_kwargs", SB3, ("hidden", "activation", "init"), "net_arch=[64, 64] is hidden 64 64"),
    Alias("net_arch", SB3, ("hidden",), "such as 64 64"),
    Alias("activation_fn", SB3, ("activation",), "a name, such as relu"),
    Alias("ortho_init", SB3, ("init",), "true is orthogonal"),
    Alias("normalize", SB3, ("obs_scaling", "reward_scaling"), "the value running is what VecNormalize does"),
    Alias("norm_obs", SB3, ("obs_scaling",), "running"),
    Alias("norm_reward", SB3, ("reward_scaling",), "running"),
    Alias("features_extractor_class", SB3, ("network",), "module:function of a network's body"),
    Alias("features_extractor_kwargs", SB3, ("network",), "module:function of a network's body, with its arguments"),
    Alias("wrapper_class", SB3, ("wrappers", "wrapper"), "NAME or module:Class, several of them innermost first"),
    Alias("vec_env_cls", SB3, ("vector",), "sync, async or native: async has a process for each env"),
    Alias("n_eval_episodes", SB3, ("final_eval_episodes", "eval_episodes", "episodes"), "for each seed"),
    Alias("eval_freq", SB3, ("eval_every",), "eval_every counts env steps: eval_freq x num_envs"),
    Alias("log_interval", SB3, ("log_every",), "in env steps, not in episodes or rollouts"),
    Alias("save_freq", SB3, ("checkpoint_every",), "checkpoint_every counts env steps: save_freq x num_envs"),
    Alias("deterministic", SB3, ("stochastic",), "the opposite: actions are greedy unless stochastic is set"),
    Alias("cuda", CLEANRL, ("device",), "auto, cpu or cuda"),
    Alias("env_id", CLEANRL, (), "the env is the word after the agent: rlab train AGENT ENV"),
    Alias("gym_id", CLEANRL, (), "the env is the word after the agent: rlab train AGENT ENV"),
    Alias("exp_name", CLEANRL, ("out",), "the run folder"),
    Alias("tensorboard_log", SB3, ("out",), "the run folder, where TensorBoard's curves always are"),
    Alias("log_dir", OTHERS, ("out",), "the run folder, where all logs are"),
    Alias("monitor_dir", SB3, ("log_episodes",), "a line for each episode of training, in the run folder"),
    Alias("eval_log_path", SB3, ("out",), "the run folder, where eval.jsonl has every evaluation"),
    Alias("best_model_save_path", SB3, ("out",), "the run folder, where best/ is the best policy while it trained"),
    Alias("stats_window_size", SB3, (), "returns are means over all episodes since the last line of the log"),
    Alias("info_keywords", SB3, (), "numbers of info are not logged; listeners=[...] of Python hear every episode"),
    Alias("use_sde", SB3, (), "rlab has no state-dependent exploration; log_std_init sets how wide actions are drawn"),
    Alias("sde_sample_freq", SB3, (), "rlab has no state-dependent exploration"),
    Alias("verbose", SB3, (), "the command line always shows a bar; in Python it is progress=True"),
    Alias("progress_bar", SB3, (), "the command line always shows a bar; in Python it is progress=True"),
    Alias("callback", SB3, (), "Python has listeners=[...], each with the methods that it wants to hear"),
    Alias("callbacks", SB3, (), "Python has listeners=[...], each with the methods that it wants to hear"),
    Alias("policy", SB3, (), "the network follows from the observations; hidden sets its layers"),
    Alias("track", CLEANRL, ("log",), "wandb, mlflow or csv, beside TensorBoard's curves, which are always there"),
    Alias("wandb_project_name", CLEANRL, ("log_project",), "with log wandb"),
    Alias("wandb_entity", CLEANRL, (), "W&B reads it from WANDB_ENTITY"),
    Alias("capture_video", CLEANRL, (), "rlab play RUN --video film.mp4 makes a film of the trained policy"),
    Alias("save_model", CLEANRL, (), "the policy is always saved, in the run folder"),
    Alias("torch_deterministic", CLEANRL, (), "a run is always repeatable: same seed, same versions, same kind of CPU"),
    Alias("reset_num_timesteps", SB3, (), "rlab resume RUN keeps the clock, rlab finetune RUN starts a new one"),
)
BY_NAME = {alias.theirs: alias for alias in ALIASES}


def answer(theirs: str, known: Container[str], as_flags: bool) -> str | None:
    """The message for a user who writes a name of another library; None where it is not such a name.

    Args:
        known: the names that are valid here: of several settings of rlab, the message names those.
        as_flags: as the command line writes names; else as Python does, followed by the flag.
    """
    alias = BY_NAME.get(theirs)
    if alias is None:
        return None
    if not alias.ours:
        return f"this is {alias.of}'s name; {alias.note}."
    ours = [name for name in alias.ours if name in known]
    if not ours:
        named, having = " or ".join(map(_flag, alias.ours)), agents_with(alias.ours)
        return f"rlab calls it {named}, {f'a setting of {having} alone' if having else 'which cannot be set here'}."
    called = ", ".join(_flag(name) if as_flags else f"{name} ({_flag(name)})" for name in ours)
    return f"rlab calls it {called}{f'; {alias.note}' if alias.note else ''}."


def agents_with(names: Iterable[str]) -> str:
    """`a2c, ppo`: the registered agents that have a setting of one of these names."""
    wanted = set(names)
    return ", ".join(agent for agent in AGENTS if wanted & _settings(agent))


def _settings(agent: str) -> set[str]:
    config: Any = getattr(load_agent(agent), "Config", None)
    return set() if config is None else {field.name for field in dataclasses.fields(config)}


def check_words(agent: str, env: Any) -> None:
    """Refuse an agent and an env in the wrong order, and SB3's names of networks.

    Raises:
        UsageError: with the right order.
    """
    check_not_a_policy(agent, env)
    if isinstance(env, str) and env in AGENTS and agent not in AGENTS:
        raise UsageError(f"the agent comes first: rlab train {env} {agent}, or rlab.train({env!r}, {agent!r}).")


def check_not_a_policy(*words: Any) -> None:
    """Refuse SB3's names of networks in the place of an agent or an env; an env may be more than a word.

    Raises:
        UsageError: one of the words is such a name.
    """
    for word in POLICIES & {word for word in words if isinstance(word, str)}:
        raise UsageError(
            f"{word}: in rlab the network follows from the observations; leave the word out. An agent and an env come "
            "first, as in rlab train ppo CartPole-v1; --hidden 64 64 sets the layers."
        )


def answering(function: Callable[P, R], settings: Iterable[str] = ()) -> Callable[P, R]:
    """The function, with an error for keywords of Stable-Baselines3 and CleanRL that names the setting of rlab.

    Args:
        settings: names that the function takes besides its own parameters.

    Raises:
        UsageError: such a keyword.
    """
    own = {*inspect.signature(function).parameters, *settings}

    @functools.wraps(function)
    def answered(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs.keys() - own:
            if message := answer(name, own, as_flags=False):
                raise UsageError(f"rlab.{function.__name__}: unknown setting {name}: {message}")
        return function(*args, **kwargs)

    return answered


def _flag(name: str) -> str:
    name = "wrapper" if name == "wrappers" else name  # Python takes a list, the command line one word after another
    return f"--{name.replace('_', '-')}"
