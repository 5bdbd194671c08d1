"""What a served policy did as a dataset: the lines of a recording, put together to episodes.

The requests of one sequence are the steps of one episode, in the order in which they were answered; row i of a request
goes on where row i of the one before it stood. What an action led to is the observation that was asked about next, or
the one that was told with the end of the episode. No reward is made up: a step whose reward was not told is left out,
and the episode is cut there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlab.errors import RlabError, UsageError
from rlab.experience.dataset import Dataset, Episode, problem_of
from rlab.experience.recording_lines import SEGMENTS, Answers, Header, Segment, Told, read_segment
from rlab.networks.spaces import Space


@dataclass
class Counts:
    """What became of all that was recorded; of observations, unless it says otherwise."""

    answered: int = 0
    learned_from: int = 0  # transitions in the episodes
    without_reward: int = 0  # the sequence went on, and nothing was told of this step
    under_way: int = 0  # the last of their sequence, which did not end
    repeated_requests: int = 0  # requests that came twice, with the same id and content
    ambiguous_requests: int = 0  # requests whose id another one had already: nothing that is told of it counts
    told: int = 0
    told_twice: int = 0  # only what was told first counts
    told_of_none: int = 0  # of a request that is not in the recording: it came late, or names an unknown id
    told_of_other_size: int = 0  # of another number of observations than the request has
    invalid: int = 0  # steps of episodes whose values are not of their space
    damaged_lines: int = 0


@dataclass(frozen=True)
class _Step:
    """One observation, and where it stands."""

    request: str
    row: int
    starts: bool
    obs: np.ndarray = field(repr=False)
    action: np.ndarray = field(repr=False)


def in_words(counts: Mapping[str, int]) -> str:
    """The counts of a recording that are not 0, for people; of a mapping as `asdict(Counts(...))` gives it."""
    found = {name.replace("_", " "): count for name, count in counts.items() if count}
    return ", ".join(f"{count} {name}" for name, count in found.items()) or "nothing was asked"


def recording_at(path: Path) -> Path | None:
    """The recording in a folder, or the only one in its folders; None where there is none.

    Raises:
        UsageError: there are several, of which the message names some.
    """
    if not path.is_dir():
        return None
    if any(path.glob(SEGMENTS)):
        return path
    found = recordings_under(path)
    if len(found) > 1:
        names = ", ".join(str(each) for each in found[:5])
        raise UsageError(f"{path} has recordings of {len(found)} models; name one of them: {names}")
    return found[0] if found else None


def recordings_under(path: Path) -> list[Path]:
    """The folders directly in this one that hold a recording."""
    return sorted({segment.parent for segment in path.glob(f"*/{SEGMENTS}")})


def read_recording(folder: Path) -> Dataset:
    """The episodes in a recording, also while the server goes on with it.

    `facts` says who acted and, under `recorded`, what became of everything that was recorded.

    Raises:
        RlabError: there is not one complete transition, or two policies with different spaces have answered.
    """
    lines: list[Answers | Told] = []
    counts, headers = Counts(), []
    for header, found in _segments(folder):
        headers.append(header)
        _check_spaces(folder, headers[0], header)
        for line in found:
            if line is None:
                counts.damaged_lines += 1
            else:
                lines.append(line)
    if not headers:
        raise RlabError(f"{folder} has only empty segments of a recording: {in_words(asdict(counts))}")
    spaces = headers[0].obs_space, headers[0].action_space
    episodes = episodes_of(lines, *spaces, counts)
    if not episodes:
        raise RlabError(
            f"{folder} has no transition to learn from ({in_words(asdict(counts))}). Post back what the actions led "
            "to, and give the requests of an episode the same sequence_id"
        )
    agents = sorted({header.agent for header in headers if header.agent})
    facts: dict[str, Any] = {"recorded": asdict(counts), "versions": sorted({header.version for header in headers})}
    if agents:
        facts["agent"] = ", ".join(agents)
    return Dataset(folder.name, *spaces, episodes, None, facts)


def _segments(folder: Path) -> Iterator[Segment]:
    """The segments in a folder, oldest first, without those that the server deletes meanwhile."""
    for path in sorted(folder.glob(SEGMENTS)):
        try:
            found = read_segment(path)
        except RlabError:
            if path.exists():
                raise
            continue
        if found is not None:
            yield found


def episodes_of(
    lines: Iterable[Answers | Told], obs_space: Space, action_space: Space, counts: Counts
) -> tuple[Episode, ...]:
    """The episodes in these lines, by the time of their first step; `counts` is added to.

    An episode whose end was not told was cut by the recording: its last observation is the one that was asked about
    last, whose own action is left out.
    """
    told, lanes = _sorted(lines, counts)
    found = []
    for lane in lanes:
        for episode in _episodes(lane, told, counts):
            if problem_of(episode, obs_space, action_space) is None:
                counts.learned_from += episode.length
                found.append(episode)
            else:
                counts.invalid += episode.length
    return tuple(found)


def _sorted(lines: Iterable[Answers | Told], counts: Counts) -> tuple[dict[str, Told], Iterable[list[_Step]]]:
    """What was told, by request, and the steps of each row of each sequence in order."""
    asked: dict[str, tuple[Any, bytes]] = {}  # request -> its sequence, and the bytes of its observations
    size: dict[str, int] = {}
    ambiguous: set[str] = set()
    lanes: dict[tuple[Any, int], list[_Step]] = {}
    tellings = []
    for line in sorted(lines, key=lambda line: line.time):  # stable: a process writes in order
        if isinstance(line, Told):
            tellings.append(line)
            continue
        for request, sequence, starts, obs, action in _requests(line):
            content = (sequence, obs.tobytes())
            if request in asked:
                if asked[request] == content:
                    counts.repeated_requests += 1
                    continue
                counts.ambiguous_requests += 1
                ambiguous.add(request)
            asked[request] = content
            size[request] = len(obs)
            counts.answered += len(obs)
            for row in range(len(obs)):
                # a request that is part of no sequence is a sequence by itself
                lane = lanes.setdefault(((sequence is None, request if sequence is None else sequence), row), [])
                lane.append(_Step(request, row, starts, obs[row], action[row]))
    told: dict[str, Told] = {}
    for line in tellings:
        counts.told += len(line.reward)
        if line.id not in asked or line.id in ambiguous:
            counts.told_of_none += len(line.reward)
        elif len(line.reward) != size[line.id]:
            counts.told_of_other_size += len(line.reward)
        elif line.id in told:
            counts.told_twice += len(line.reward)
        else:
            told[line.id] = line
    return told, lanes.values()


def _requests(line: Answers) -> Iterator[tuple[str, Any, bool, np.ndarray, np.ndarray]]:
    """The requests that were answered together, one by one, with their observations and actions."""
    first = 0
    for request, rows, sequence, starts in zip(line.ids, line.rows, line.sequences, line.starts, strict=True):
        part = slice(first, first + rows)
        yield request, sequence, starts, line.obs[part], line.action[part]
        first += rows


def _episodes(lane: Sequence[_Step], told: dict[str, Told], counts: Counts) -> Iterator[Episode]:
    """The episodes in the steps of one row of one sequence."""
    run: list[tuple[_Step, Told]] = []  # complete steps, each the successor of the one before it
    for place, step in enumerate(lane):
        known = told.get(step.request)
        goes_on = place + 1 < len(lane) and not lane[place + 1].starts
        if known is not None and known.ended[step.row]:
            at = int(known.ended[: step.row].sum())
            terminated = bool(known.terminated[step.row])
            yield _episode([*run, (step, known)], known.next_obs[at], terminated, not terminated)
            run = []
        elif known is not None and goes_on:
            run.append((step, known))
        else:
            counts.without_reward += goes_on
            counts.under_way += not goes_on
            if run:
                yield _episode(run, step.obs, False, False)
            run = []


def _episode(run: Sequence[tuple[_Step, Told]], last: np.ndarray, terminated: bool, truncated: bool) -> Episode:
    obs = np.stack([*(step.obs for step, _ in run), last])
    action = np.stack([step.action if known.action is None else known.action[step.row] for step, known in run])
    reward = np.array([known.reward[step.row] for step, known in run], np.float32)
    return Episode(obs, action, reward, terminated, truncated)


def _check_spaces(folder: Path, first: Header, other: Header) -> None:
    for what in ("obs_space", "action_space"):
        a, b = getattr(first, what), getattr(other, what)
        if a != b:
            raise RlabError(
                f"{folder} was recorded with versions {first.version} and {other.version} of {first.model}, whose "
                f"spaces differ: {a} and {b}. Move the segments of one of them to another folder"
            )
