"""`rlab eval RUN`: judge a trained population, or one member, on episode seeds of its own."""

import json
from dataclasses import dataclass

import tyro

from rlab.cli.flags import parse


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to judge, and on which episodes."""

    run: tyro.conf.Positional[str]  # a run folder (its final policy) or a policy folder
    episodes: int = 100  # per member
    seed: int = 100_000  # of the first episode; episode k has seed + k, the same for every member and policy
    member: int | None = None  # training seed of one member; None: all
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, around the env in place of those that it was trained with
    trust: bool = False  # run envs, wrappers and layers of others that the folder names
    json: bool = False  # one JSON object on standard output


def run(argv: list[str]) -> int:
    """Parse, judge, report."""
    (options,) = parse(argv, (EvalOptions,), prog="rlab eval")
    from rlab.cli.saved import open_policy
    from rlab.envs import make_episodes
    from rlab.evaluation.evaluate import evaluate
    from rlab.learning.runtime import torch_settings

    saved = open_policy(options.run, options.trust)
    policy = saved.policy if options.member is None else saved.policy.only(options.member)
    env = saved.env.wrapped(options.wrapper) if options.wrapper else saved.env
    with torch_settings(threads=1):
        result = evaluate(policy, lambda n: make_episodes(env, n), options.episodes, options.seed)
    if options.json:
        print(json.dumps(result.to_json(options.run, saved.agent, saved.env.env_id)))
    else:
        print(f"{saved.agent} on {env.label}: {saved.folder}\n{result.summary()}")
    return 0
