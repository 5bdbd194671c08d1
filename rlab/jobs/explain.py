"""`rlab.explain`: why a policy acts as it does, as a page and as numbers."""

import inspect
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from rlab.envs import EnvLike, SingleEpisodes, make_env
from rlab.envs.watch import ENV_TIMEOUT
from rlab.errors import RlabError, UsageError
from rlab.evaluation.episode_driver import check_episodes
from rlab.evaluation.explanation.explain import Counts, Explanation
from rlab.evaluation.explanation.explain import explain as explain_states
from rlab.evaluation.explanation.page import Facts, lede, page
from rlab.evaluation.explanation.players import players_of
from rlab.evaluation.explanation.strip import Strip, strip_of
from rlab.evaluation.explanation.target import Target, target_of
from rlab.evaluation.explanation.watching import visit
from rlab.jobs.aliases import answering
from rlab.jobs.films import draw_without_window, picture_of
from rlab.jobs.judging import FINAL_EPISODE_SEED
from rlab.jobs.page_folder import PageFolder
from rlab.jobs.saved import SavedPolicy, open_policy
from rlab.learning.runtime import own_surroundings
from rlab.networks.own import Builder, standing_in
from rlab.networks.policy import MemberPolicy
from rlab.runs.folder import path_of
from rlab.trust import Trust
from rlab.version import VERSION

FOLDER = "explanation"
EXPLANATIONS = PageFolder("an explanation", "explanation.html", "explanation.json")
KEPT = 100  # states of each episode, of which those explained are drawn
# What the numbers of well-known observations and actions are, for envs that nothing is wrapped around.
FEATURES = {
    "CartPole": ("cart position", "cart velocity", "pole angle", "pole angular velocity"),
    "MountainCar": ("position", "velocity"),
    "MountainCarContinuous": ("position", "velocity"),
    "Pendulum": ("cos(angle)", "sin(angle)", "angular velocity"),
    "Acrobot": ("cos(angle 1)", "sin(angle 1)", "cos(angle 2)", "sin(angle 2)", "velocity 1", "velocity 2"),
    "LunarLander": (
        *("x", "y", "x velocity", "y velocity", "angle", "angular velocity"),
        *("left leg on the ground", "right leg on the ground"),
    ),
}
ACTIONS = {
    "CartPole": ("push left", "push right"),
    "MountainCar": ("push left", "no push", "push right"),
    "Acrobot": ("torque -1", "torque 0", "torque 1"),
    "LunarLander": ("no engine", "left engine", "main engine", "right engine"),
}


@dataclass(frozen=True)
class Explained:
    """An explanation on the disk."""

    out: Path  # the folder
    explanation: Explanation
    notes: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def page(self) -> Path:
        """The page, which opens from the disk."""
        return self.out / EXPLANATIONS.page

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab explain --json` prints, and that is beside the page."""
        return {
            "format": 1,
            "files": [EXPLANATIONS.page],
            **self.facts,
            "notes": list(self.notes),
            **self.explanation.to_json(),
        }

    def summary(self) -> str:
        """What was found, for people."""
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([lede(self.explanation), *notes, f"page: {self.page}"])


@answering
def explain(
    run: str | PathLike[str],
    *,
    out: str | Path = FOLDER,
    member: int | None = None,
    episodes: int = 10,
    seed: int = FINAL_EPISODE_SEED,
    states: int = 64,
    background: int = 16,
    orders: int = 64,
    features: Sequence[str] = (),
    actions: Sequence[str] = (),
    axes: Sequence[str] = (),
    pictures: bool = True,
    env_timeout: float = ENV_TIMEOUT,
    env: EnvLike | None = None,
    network: Builder | None = None,
    trust: Trust = False,
) -> Explained:
    """Say why a policy acts as it does: Shapley values, gradients, a test of both, maps and an episode, on one page.

        rlab.explain("runs/my-run", out="why").page

    Args:
        run: a run folder (its final policy) or a policy folder.
        out: a new folder, or one that holds an explanation, which is replaced.
        member: training seed of the one that is explained; None: the first.
        episodes: greedy ones, from which the states come; the first is shown step by step.
        seed: of the first episode; the same as in `rlab.evaluate`.
        states: how many are explained.
        background: other states, from which comes what a feature is replaced by.
        orders: of features, for Shapley values of more than 12 features, which are sampled.
        features: names, one for each; (): those of well-known envs, else `obs[0]`, `obs[1]` ...
        actions: names of the options of an action that is one choice; (): those of well-known envs, else their numbers.
        axes: the two features that the maps are over; (): those that matter most.
        pictures: draw the env.
        env_timeout: seconds for each constructor, reset, step and close of an env.
        env: makes the env where only the process that trained in it can: `env=MyEnv`; None: the one on record.
        network: the function that made the network, where only the process that trained could find it.
        trust: allow envs, wrappers and layers from outside rlab that the folder names, which run their code.

    Raises:
        UsageError: no such member or feature, a number below 1, or the folder holds something else.
        RlabError: the folder is missing or broken, or an episode does not end.
    """
    settings = _Settings(
        *(str(out), member, episodes, seed, states, background, orders),
        *(tuple(features), tuple(actions), tuple(axes), pictures, env_timeout),
    )
    with standing_in(network):
        saved = open_policy(run, trust, env)
    return _explained(path_of(run), replace(saved, env=replace(saved.env, timeout=env_timeout)), settings)


@dataclass(frozen=True)
class _Settings:
    """As of `explain`."""

    out: str
    member: int | None
    episodes: int
    seed: int
    states: int
    background: int
    orders: int
    features: tuple[str, ...]
    actions: tuple[str, ...]
    axes: tuple[str, ...]
    pictures: bool
    env_timeout: float


def _explained(run: str, saved: SavedPolicy, settings: _Settings) -> Explained:
    """Carry it out, and write the folder."""
    check_episodes("an explanation", settings.episodes, settings.seed)
    for name in ("states", "background", "orders"):
        if getattr(settings, name) < 1:
            raise UsageError(f"{name} {getattr(settings, name)} must be 1 or more.")
    if not saved.acts:
        raise UsageError(f"{saved.folder} is of an encoder, whose policy was never trained to act.")
    place = Path(settings.out).absolute()  # before an env is made, which may change the working folder
    EXPLANATIONS.check(place, settings.out)
    policy, seeds = saved.policy.member(settings.member), range(settings.seed, settings.seed + settings.episodes)
    target = target_of(policy.head, settings.actions or _known(saved, ACTIONS))
    notes = list[str]()
    players = players_of(policy.spec.obs_space, settings.features or _known(saved, FEATURES))
    axes = players.axes(settings.axes)
    with own_surroundings(threads=1):
        strip = _strip(saved, policy, target, settings, notes)
        visited = visit(policy, target, saved.make_episodes, seeds, KEPT)
        counts = Counts(settings.states, settings.background, settings.orders)
        found = explain_states(policy, target, players, visited, counts, axes, strip)
    facts = {"policy": str(saved.folder), "agent": saved.agent, "env_id": saved.env.env_id, "seed": policy.seed}
    facts |= {"episodes": settings.episodes, "first_episode_seed": settings.seed}
    done = Explained(Path(settings.out), found, tuple(notes), facts)
    shown = Facts(Path(run).name, saved.env.label, _command(run, settings), VERSION, notes)
    EXPLANATIONS.write(place, {EXPLANATIONS.page: page(found, shown).encode()}, done.to_json())
    return done


def _strip(saved: SavedPolicy, policy: MemberPolicy, target: Target, settings: _Settings, notes: list[str]) -> Strip:
    """The first episode step by step, with pictures where the env can be drawn; else a note says why not."""
    seed = settings.seed
    if settings.pictures:
        draw_without_window()
        try:
            with closing(make_env(saved.env, "rgb_array")) as env:
                return strip_of(policy, target, SingleEpisodes([env]), seed, lambda: picture_of(env, saved.env))
        except RlabError as error:
            notes.append(f"The episode has no pictures: {str(error).rstrip('.')}.")
    with closing(make_env(saved.env)) as env:
        return strip_of(policy, target, SingleEpisodes([env]), seed)


def _known(saved: SavedPolicy, names: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What `names` calls the numbers of the env, where the env is well known and nothing is wrapped around it."""
    name = saved.env.env_id.rpartition("-v")[0]
    return () if saved.env.wrappers or saved.env.local else names.get(name, ())


def _command(run: str, settings: _Settings) -> str:
    """The command that does the same, with the settings that differ from its own."""
    defaults = {each.name: each.default for each in inspect.signature(explain).parameters.values()}
    words = ["rlab", "explain", run]
    for name, value in asdict(settings).items():
        flag = name.replace("_", "-")
        if value != defaults[name]:
            several = value if isinstance(value, tuple) else (value,)
            words += [f"--no-{flag}"] if value is False else [f"--{flag}", *map(str, several)]
    return shlex.join(words)
