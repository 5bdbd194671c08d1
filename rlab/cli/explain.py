"""`rlab explain RUN`: why a policy acts as it does, on a page and as numbers."""

from dataclasses import dataclass

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.shared import keywords, show


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """Which policy to explain, how closely, and where to."""

    run: tyro.conf.Positional[str]  # a run folder or a policy folder
    out: str = "explanation"  # a new folder, or one with an explanation, which is replaced
    member: int | None = None  # training seed of the member; None: the first
    episodes: int = 10  # greedy ones, from which the states come; the first is shown step by step
    seed: int = 100_000  # of the first episode; the same as in rlab eval
    states: int = 64  # that are explained
    background: int = 16  # other states, from which comes what a feature is replaced by
    orders: int = 64  # of features, where there are more than 12 and Shapley values are sampled
    features: tuple[str, ...] = ()  # names, one for each; without: those of well-known envs, else obs[0], obs[1] ...
    actions: tuple[str, ...] = ()  # names of the options of one choice; without: those of well-known envs, else numbers
    axes: tuple[str, ...] = ()  # the two features that the maps are over; without: those that matter most
    pictures: bool = True  # draw the env at some of the first episode's steps
    env_timeout: float = 60.0  # seconds for each constructor, reset, step and close of an env
    trust: bool = False  # run envs, wrappers and layers from outside rlab that the folder names
    json: bool = False  # one JSON object on standard output


SCHEMAS = (ExplainOptions,)
PAGE = Page(
    "rlab explain RUN [settings]",
    "Say why a policy acts as it does: what each feature of the observation adds to the choice (Shapley values, "
    "integrated gradients, saliency), whether that holds (deletion test), value and policy over two features, and an "
    "episode step by step. One page, and the numbers as JSON.",
    ("rlab explain runs/my-run", "rlab explain runs/my-run --out why --axes 'pole angle' 'pole angular velocity'"),
)


def run(argv: list[str]) -> int:
    """Parse, explain, say what matters most."""
    (options,) = parse(argv, SCHEMAS, prog="rlab explain", page=PAGE)
    from rlab.jobs.explain import explain

    done = explain(**keywords(options))
    return show(options.json, done.to_json, done.summary)
