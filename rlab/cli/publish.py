"""`rlab publish RUN NAME`: a policy becomes a numbered version of a model, with a card, here or on the hub."""

from dataclasses import dataclass

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.shared import keywords, show


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """What to publish, under which name, and where."""

    run: tyro.conf.Positional[str]  # a run or policy folder, or a published policy: NAME@3, hf:USER/NAME
    name: tyro.conf.Positional[str | None] = None  # of the model; None: that of a published policy, or NAME of --to
    alias: tuple[str, ...] = ()  # names, such as best, that mean this version from now on
    member: int | None = None  # training seed of the one to publish; None: all
    to: str | None = None  # hf:USER/NAME: push the version to the Hugging Face hub, too
    private: bool = False  # a repository that has to be made on the hub is for its owner alone
    models: str | None = None  # the folder of all models; None: that of the variable RLAB_MODELS, else models
    episodes: int = 100  # per member, that a policy without an evaluation on record is judged by
    envs: int | None = None  # instances of the env at once for that, in all; None: as for eval
    trust: bool = False  # run envs, wrappers and layers from outside rlab that the folder names
    json: bool = False  # one JSON object on standard output


SCHEMAS = (PublishOptions,)
PAGE = Page(
    "rlab publish RUN [NAME] [settings]",
    "Make a policy the next version of a model, with its measured return, its origin and a model card; or move an "
    "alias to a version. NAME@best, NAME@3 or NAME then stand for it wherever a run is named.",
    (
        "rlab publish runs/my-run cartpole --alias best",
        "rlab publish cartpole@2 --alias best",
        "rlab publish cartpole@best --to hf:me/cartpole",
    ),
)


def run(argv: list[str]) -> int:
    """Parse, judge what was never judged, publish, report."""
    (options,) = parse(argv, SCHEMAS, prog="rlab publish", page=PAGE)
    from rlab.jobs.publish import publish

    done = publish(**keywords(options))
    return show(options.json, done.to_json, done.summary)
