"""The settings that a search varies, and how a database of trials writes them: a number on the scale of its range, a
choice as a word."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rlab import door
from rlab.errors import RlabError, UsageError, unknown
from rlab.jobs.aliases import answer
from rlab.jobs.request import BOOKKEEPING, BUDGETS, Request
from rlab.jobs.settings import Setting, merge, settings_of, short_type
from rlab.search_ranges import Choices, Range

DIGITS = 4  # significant ones of a number that is drawn; more would only be noise in a file
MOST_POINTS = 100_000  # of a grid
GRID_POINTS = 3  # of a range in a grid: both ends and the middle, on its scale
OF_A_RANGE, OF_CHOICES = {"low", "high", "scale"}, {"choices"}
# A search compares runs of one length, and its seeds are not part of what it looks for.
NEVER = BOOKKEEPING | {*BUDGETS, "seeds", "max_episode_steps", "network"}
PREFIXES = {"one_minus": "one_minus_", "powers": "log2_"}


@dataclass(frozen=True)
class Parameter:
    """A setting that is searched."""

    setting: Setting  # its default is where the search starts
    space: Range | Choices

    @property
    def whole(self) -> bool:
        """Whether it is a whole number."""
        return short_type(self.setting.hint) == "INT"

    @property
    def name(self) -> str:
        """In the database, where `one_minus_gamma` is 1 - gamma and `log2_batch_size` the exponent of a power of 2."""
        prefix = PREFIXES.get(self.space.scale, "") if isinstance(self.space, Range) else ""
        return prefix + self.setting.name

    def words(self) -> dict[str, Any]:
        """The choices by the words that stand for them."""
        assert isinstance(self.space, Choices)
        return {_word(value): value for value in self.space.values}

    def bounds(self) -> tuple[float, float]:
        """The ends of the range as the database has them."""
        assert isinstance(self.space, Range)
        low, high = self.stored(self.space.low), self.stored(self.space.high)
        return min(low, high), max(low, high)

    def stored(self, value: Any) -> Any:
        """A value of the setting as the database has it: the nearest one that the space has."""
        if isinstance(self.space, Choices):
            return _word(value if value in self.space.values else self.space.values[0])
        number = self.space.low if value is None else self.space.nearest(value)
        if self.space.scale == "powers":
            return round(math.log2(number))
        if self.space.scale == "one_minus":
            return round(1.0 - number, 12)
        return round(number) if self.whole else float(number)

    def value(self, stored: Any) -> Any:
        """The setting that a value in the database stands for."""
        if isinstance(self.space, Choices):
            return self.words()[stored]
        if self.space.scale == "powers":
            return 2 ** int(stored)
        if self.whole:
            return int(stored)
        rounded = float(f"{stored:.{DIGITS}g}")
        return round(1.0 - rounded, 12) if self.space.scale == "one_minus" else rounded

    def grid(self) -> list[Any]:
        """The values that a grid takes, as the database has them."""
        if isinstance(self.space, Choices):
            return list(self.words())
        low, high = self.bounds()
        logs = self.space.scale in ("log", "one_minus")
        first, last = (math.log(low), math.log(high)) if logs else (low, high)
        points = [first + (last - first) * i / (GRID_POINTS - 1) for i in range(GRID_POINTS)]
        values = [low, *(math.exp(point) if logs else point for point in points[1:-1]), high]
        return sorted({round(value) for value in values}) if self.whole else values


@dataclass(frozen=True)
class Space:
    """What a search varies, by setting."""

    parameters: Mapping[str, Parameter]

    def settings(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that the values in the database stand for."""
        return {name: each.value(stored[each.name]) for name, each in self.parameters.items()}

    def defaults(self) -> dict[str, Any]:
        """The settings that the search starts from."""
        return {name: each.setting.default for name, each in self.parameters.items()}

    def start(self) -> dict[str, Any]:
        """Where the search starts, as the database has it: the defaults, or what of the space is nearest to them."""
        return {each.name: each.stored(each.setting.default) for each in self.parameters.values()}

    def grid(self) -> dict[str, list[Any]]:
        """The values of each parameter whose products are the points of a grid.

        Raises:
            UsageError: there are far too many.
        """
        values = {each.name: each.grid() for each in self.parameters.values()}
        points = math.prod(map(len, values.values()))
        if points > MOST_POINTS:
            raise UsageError(
                f"a grid over {len(values)} settings has {points:,} points, and {MOST_POINTS:,} are the most. Name the "
                "settings that matter in a file with only = true: --ranges FILE.toml; or use another method."
            )
        return values

    def to_json(self) -> dict[str, Any]:
        """Each setting with its range or choices, where it starts, and who gives the range."""
        return {name: _as_json(each) for name, each in self.parameters.items()}


def space_of(request: Request, ranges: Mapping[str, Any] | str | Path | None, named: Collection[str]) -> Space:
    """What a search around a request varies.

    Args:
        request: where it starts; what nothing reads of it is not searched unless `ranges` names it.
        ranges: the ranges of a file or a call, over those that the agent's config states. `only = true` leaves out all
            that it does not name. A value alone fixes a setting.
        named: settings that the user gave a value, which they keep.

    Raises:
        UsageError: `ranges` names a setting that cannot be searched, or a value that it cannot have; or nothing is
            searched at all.
    """
    where, stated, only = _read(ranges)
    known = {name: each for name, each in settings_of([request.run, request.settings]).items() if name not in NEVER}
    found = {}
    for name, each in known.items():
        space = None if only or name in request.unread else each.search
        if name in stated:
            space = _stated(request, each, stated[name], where)
        if space is not None and name not in named:
            found[name] = Parameter(each, space)
    for name in stated:
        if name not in known:
            raise _unknown(name, known, where)
    if not found:
        raise UsageError(
            f"nothing is searched: {request.agent} states no ranges that are free here. Name some in a file, "
            "--ranges FILE.toml, or beside the defaults of its Config: rlab.search_ranges.searched."
        )
    return Space(found)


def fixed_of(request: Request, ranges: Mapping[str, Any] | str | Path | None) -> Request:
    """The request with the settings to which the ranges give one value alone."""
    where, stated, _ = _read(ranges)
    known = settings_of([request.run, request.settings])
    values = {n: each for n, each in stated.items() if n in known and n not in NEVER and _is_value(known[n], each)}
    return changed(request, {n: known[n].fitted(each, where) for n, each in values.items()}, where)


def changed(request: Request, values: Mapping[str, Any], origin: str) -> Request:
    """A request with other settings, of the run and of the agent alike.

    Raises:
        UsageError: they are invalid, alone or together.
    """
    of_run = {field.name for field in fields(request.run)} & values.keys()
    run = merge(request.run, {name: values[name] for name in of_run}, origin)
    settings = merge(request.settings, {n: value for n, value in values.items() if n not in of_run}, origin)
    return replace(request, run=run, settings=settings, origins={**request.origins, **dict.fromkeys(values, origin)})


def _read(ranges: Mapping[str, Any] | str | Path | None) -> tuple[str, Mapping[str, Any], bool]:
    """Where ranges come from, those that it states, and whether they are all."""
    if ranges is None:
        return "", {}, False
    if isinstance(ranges, Mapping):
        stated = {name: value for name, value in ranges.items() if name != "only"}
        return "ranges", stated, bool(ranges.get("only", False))
    try:
        data = door.read_toml(Path(ranges))
    except RlabError as error:
        raise UsageError(str(error)) from error
    if data.pop("format", 1) != 1:
        raise UsageError(f"{ranges} has another format; this rlab reads format 1.")
    only = data.pop("only", False)
    if not isinstance(only, bool):
        raise UsageError(f"{ranges}: only must be true or false, not {only!r:.80}.")
    return str(ranges), data, only


def _is_value(setting: Setting, stated: Any) -> bool:
    """Whether a setting is given one value, not several to choose from: of a list of numbers that is a list."""
    if not isinstance(stated, list | tuple):
        return not isinstance(stated, Mapping)
    takes_a_list = short_type(setting.hint).endswith("...")
    return takes_a_list and not any(isinstance(each, list | tuple) or each == "None" for each in stated)


def _stated(request: Request, setting: Setting, stated: Any, where: str) -> Range | Choices | None:
    """What a file or call says of one setting; None where it gives it one value."""
    name = setting.name
    if _is_value(setting, stated):
        return None
    table = stated if isinstance(stated, Mapping) else {"choices": stated}
    for key in table.keys() - OF_A_RANGE - OF_CHOICES:
        raise unknown(f"key of {name} in {where}", key, OF_A_RANGE | OF_CHOICES)
    try:
        if "choices" in table:
            if table.keys() & OF_A_RANGE or not isinstance(table["choices"], list | tuple):
                raise UsageError("choices are a list, and leave no room for low and high.")
            values = tuple(setting.fitted(value, where) for value in table["choices"])
            space: Range | Choices = Choices(values, where)
        else:
            space = _range(setting, table, where)
            values = (space.low, space.high)
        for value in values:
            changed(request, {name: value}, where)  # raises where the config refuses it
    except UsageError as error:
        raise UsageError(f"{where}: {name}: {str(error).removeprefix(f'{where}: ')}") from None
    return space


def _range(setting: Setting, table: Mapping[str, Any], where: str) -> Range:
    stated = setting.search if isinstance(setting.search, Range) else None
    if short_type(setting.hint) not in ("INT", "FLOAT"):
        raise UsageError("it is not a number; name choices: [value, value].")
    ends = {}
    for key in ("low", "high"):
        if key not in table and stated is None:
            raise UsageError("a range needs low and high.")
        ends[key] = setting.fitted(table[key], where) if key in table else getattr(stated, key)
    return Range(ends["low"], ends["high"], table.get("scale", stated.scale if stated else "linear"), where)


def _unknown(name: str, known: Mapping[str, Setting], where: str) -> UsageError:
    if name in NEVER:
        return UsageError(
            f"{where}: {name} cannot be searched; it is the same in all trials: --{name.replace('_', '-')}."
        )
    if message := answer(name, known, as_flags=False):
        return UsageError(f"{where}: unknown setting {name}: {message}")
    return UsageError(f"{where}: {unknown('setting', name, known)}")


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _as_json(parameter: Parameter) -> dict[str, Any]:
    space, default = parameter.space, parameter.setting.default
    start = list(default) if isinstance(default, tuple) else default
    if isinstance(space, Choices):
        values = [list(value) if isinstance(value, tuple) else value for value in space.values]
        return {"choices": values, "start": start, "source": space.source}
    return {"low": space.low, "high": space.high, "scale": space.scale, "start": start, "source": space.source}
