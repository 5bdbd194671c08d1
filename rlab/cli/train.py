"""`rlab train AGENT ENV`: from nothing to a judged, saved policy."""

from dataclasses import dataclass

from rlab.agents import AGENTS
from rlab.cli.flags import command_words, parse
from rlab.cli.help import Page
from rlab.cli.main import HELP
from rlab.cli.shared import read_settings, train, value_of
from rlab.envs import EnvSpec
from rlab.errors import UsageError
from rlab.jobs.aliases import check_not_a_policy, check_words
from rlab.jobs.defaults import defaults_for
from rlab.jobs.request import Request, train_request
from rlab.runs.config import RunConfig, SourceConfig

USAGE = "rlab train AGENT ENV [settings]"
EXAMPLE = "rlab train dqn CartPole-v1 --seeds 10"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train on, where to put it, and how to report."""

    env_kwargs: tuple[str, ...] = ()  # key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, innermost first
    out: str | None = None  # the run folder; None: a fresh one under runs/
    experiment: str | None = None  # NAME or FILE of tuned settings; none: the agent's plain defaults
    # SETTING=VALUE,VALUE ... of the agent: one stack of all seeds with each value, of several settings with each other
    vary: tuple[str, ...] = ()
    trust: bool = False  # run code from outside rlab that the experiment file or the teacher's folder names
    json: bool = False  # how the run ended and its final evaluation as one JSON object on standard output


SCHEMAS = (TrainOptions, RunConfig, SourceConfig)
PAGE = Page(
    USAGE,
    "Train an agent in an environment: from nothing to a judged, saved policy.",
    (EXAMPLE, "rlab train my_module:MyAgent CartPole-v1"),
    (
        f"AGENT: {', '.join(sorted(AGENTS))}, or one of your own as module:Class; rlab list agents says what they are. "
        "ENV: a Gymnasium id; rlab list envs names those that are installed.",
        "An agent has settings of its own, and an env that it was tuned for may change the defaults: rlab train AGENT "
        "--help, rlab train AGENT ENV --help.",
    ),
    command="rlab train",
)


def run(argv: list[str]) -> int:
    """Parse, train, report."""
    return train(*requested(argv))


def requested(argv: list[str]) -> tuple[Request, TrainOptions]:
    """The request and options that the words AGENT ENV and what follows them ask for."""
    return read_request(*_agent_and_env(argv))


def read_request(agent: str, env_id: str, argv: list[str]) -> tuple[Request, TrainOptions]:
    """The request and options that the words after AGENT and ENV ask for."""
    prog = f"rlab train {agent} {env_id}"
    # The experiment decides the defaults of everything else, so it is looked for first.
    chosen = value_of(argv, "--experiment")
    if chosen is None and {"--wrapper", "--env-kwargs"} & {word.partition("=")[0] for word in argv}:
        chosen = "none"  # tuned settings are for the env without changes; --experiment NAME still asks for them
    start = defaults_for(agent, env_id, chosen, "--trust" in argv)
    in_force = TrainOptions(experiment="none" if start.experiment is None else start.experiment.name)
    options, settings = read_settings(argv, (in_force,), start, prog=prog, agent=agent)
    env = EnvSpec(env_id)
    words, trust = command_words(), options.trust
    request = train_request(agent, env, options.env_kwargs, options.wrapper, chosen, settings, words, trust)
    from rlab.jobs.varied import read_points, with_points  # torch takes its time: after every check of the words

    return with_points(request, read_points(options.vary), "--vary"), options


def _agent_and_env(argv: list[str]) -> tuple[str, str, list[str]]:
    """The first two words and the rest; a page of help where that is asked for and no env is named."""
    named = [word for word in argv[:2] if not word.startswith("-")]
    if HELP & set(argv) and len(named) < 2:
        if not argv or argv[0].startswith("-"):
            parse(argv, SCHEMAS, prog="rlab train", page=PAGE)
        agent, prog = argv[0], f"rlab train {argv[0]}"
        start = defaults_for(agent, "", "none")
        read_settings(argv[1:], (TrainOptions(),), start, prog=prog, agent=agent, usage="ENV [settings]", command=prog)
    check_words(*named) if len(named) == 2 else check_not_a_policy(*named)
    if len(named) < 2:
        raise UsageError(f"train needs an agent and an env first: {USAGE}; for example: {EXAMPLE}")
    return argv[0], argv[1], argv[2:]
