"""`rlab.train`: from nothing to a judged, saved policy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlab.envs import EnvLike
from rlab.jobs.own_networks import named_network
from rlab.jobs.request import train_request
from rlab.jobs.running import Run, start, unless_interrupted
from rlab.jobs.varied import with_points
from rlab.trust import Trust


def train(
    agent: str,
    env: EnvLike,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    out: str | Path | None = None,
    experiment: str | None = None,
    vary: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] = (),
    progress: bool = False,
    trust: Trust = False,
    listeners: Sequence[Any] = (),
    **settings: Any,
) -> Run:
    """Train a population and judge it.

    Args:
        agent: a registered name, or `their.module:Class`.
        env: a Gymnasium id, `module:Id`, or a class or function that makes an env, which gets `env_kwargs`. What no
            other process finds (a lambda, a class in a notebook) is given again: `evaluate(run, env=MyEnv)`.
        env_kwargs: keywords of the env, plain data (`rlab.envs.plain`) that it is given again in every later use.
        wrappers: names from `rlab.envs.WRAPPERS`, or `their.module:Wrapper`, innermost first.
        out: the run folder; None makes a fresh one under `runs/`.
        experiment: the name or file of the tuned settings to start from; None takes the one for this agent and env if
            there is one and the env is not changed by keywords or wrappers, `"none"` the plain defaults.
        vary: settings of the agent in which members differ, `{"learning_rate": [1e-4, 3e-4]}`, every value of one with
            every value of the others, or the sets themselves, `[{"learning_rate": 1e-4, "gamma": 0.9}, ...]`. All are
            trained as one stack, each set with all seeds; `run.runs` has the run of each.
        progress: show a bar, as the command line does.
        trust: allow code from outside rlab that the folder of a teacher names: True, or the names of modules. Those in
            `.rlab-trust` in the working folder (`rlab trust my_envs`) are always allowed.
        listeners: objects with some of the methods of `rlab.Listener`, which hear what the run does and may stop it.
        settings: fields of `RunConfig` (`seeds=10`, `env_steps=50_000`), of `SourceConfig` (`teacher="runs/good"`) and
            of the agent's config (`gamma=0.9`); they are listed below. `network` may also be a function that makes the
            network's body, a plain `torch.nn.Module` or a `NetworkSpec`, out of those of `shape`, `obs_space` and
            `settings` that it asks for.

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the run failed; what was saved stays.
        KeyboardInterrupt: Ctrl+C or SIGTERM, after a save; a second Ctrl+C does not wait for it.

    Settings of every run: `env_steps`, `updates`, `seed`, `seeds`, `num_envs`, `vector`, `max_episode_steps`,
    `env_timeout`, `env_restarts`, `eval_every`, `eval_episodes`, `final_eval_episodes`, `eval_envs`, `eval_alone`,
    `judge`, `checkpoint_every`, `keep_checkpoints`, `log_every`, `log`, `log_project`, `film_every`, `log_episodes`,
    `device`, `devices`, `jobs`, `engine`, `compile`, `threads`, `deterministic`, `on_nan`, `reward_clip`, `sparsity`.
    Of what else it learns from: `dataset`, `dataset_episodes`, `demonstration_share`, `teacher`, `teacher_member`,
    `teacher_weight`, `teacher_fraction`, `teacher_temperature`.
    Of an agent, with meanings and defaults of all: `rlab train dqn --help-all`.
    """
    settings = named_network(settings)
    request = train_request(agent, env, env_kwargs or {}, wrappers, experiment, settings, trust=trust)
    request = with_points(request, vary, "rlab.train(vary=...)")
    return unless_interrupted(start(request, out, progress, trust, listeners))
