"""What a dataclass of settings says about each of them: its type in words, its choices and its one line of help.

The help of a setting is the comment after its field, else the comment lines right above it, else the text right below
it; a field that is declared again without any keeps that of the class it inherits from.
"""

import ast
import contextlib
import dataclasses
import difflib
import inspect
import io
import itertools
import numbers
import textwrap
import tokenize
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, Union

from rlab.errors import RlabError, UsageError
from rlab.jobs.aliases import agents_with, answer
from rlab.search_ranges import Choices, Range, ranges_of

T = TypeVar("T")

WORDS = {
    int: "a whole number (int)",
    float: "a number (float)",
    bool: "true or false",
    str: "a text",
    types.NoneType: "None",
}
SHORT = {int: "INT", float: "FLOAT", str: "TEXT", bool: "BOOL"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a schema, as the command line sees it."""

    name: str
    hint: Any  # its type, without the marks that tyro reads
    owner: str
    required: bool
    positional: bool
    default: Any  # in force: of the instance, or the class's own; None where it is required
    usual: Any  # the class's own default
    help: str
    choices: tuple[str, ...]  # () where any value of the type will do
    group: str | None  # as the field's metadata says
    search: Range | Choices | None = None  # where it is worth searching, as the metadata says

    @property
    def flag(self) -> str:
        return self.name.upper() if self.positional else "--" + self.name.replace("_", "-")

    def fitted(self, value: Any, where: str) -> Any:
        """A value out of TOML or a call, as one of this setting's type.

        Raises:
            UsageError: it is of another type; `where` it was read from.
        """
        try:
            return _fitted(value, self.hint)
        except TypeError:
            near = difflib.get_close_matches(str(value), self.choices, n=1)
            near_miss = f". Did you mean {near[0]}?" if near else ""
            raise UsageError(f"{where}: {self.name} = {value!r} is not {wanted(self.hint)}{near_miss}") from None


def settings_of(schemas: Sequence[Any]) -> dict[str, Setting]:
    """Every setting of some dataclasses (or instances of them), by name.

    Raises:
        RlabError: two of them share a field name, or a field's type is not one that settings can have.
    """
    found: dict[str, Setting] = {}
    for schema in schemas:
        kind = schema if isinstance(schema, type) else type(schema)
        hints = typing.get_type_hints(kind, include_extras=True)
        texts, ranges = descriptions(kind), ranges_of(kind)
        for field in dataclasses.fields(kind):
            if field.name in found:
                raise RlabError(
                    f"{kind.__qualname__} and {found[field.name].owner} both have a setting {field.name}; "
                    "flags carry no prefix, so one of them needs another name"
                )
            hint, *marks = _parts(hints[field.name])
            usual = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            required = isinstance(schema, type) and usual is dataclasses.MISSING
            try:
                wanted(hint)  # refuses a type that settings cannot have
                if usual is not dataclasses.MISSING:
                    _fitted(usual, hint)
            except RlabError as error:
                raise RlabError(f"{kind.__qualname__}.{field.name}: {error}") from None
            except TypeError:
                place = f"{kind.__qualname__}.{field.name}"
                raise RlabError(f"{place}: the default {usual!r} is not {wanted(hint)}.") from None
            usual = None if usual is dataclasses.MISSING else usual
            found[field.name] = Setting(
                name=field.name,
                hint=hint,
                owner=kind.__qualname__,
                required=required,
                positional=bool(marks),  # the one mark that a setting can carry is tyro's Positional
                default=usual if isinstance(schema, type) else getattr(schema, field.name),
                usual=usual,
                help=texts.get(field.name, ""),
                choices=tuple(field.metadata.get("choices", choices_of(hint))),
                group=field.metadata.get("group"),
                search=ranges.get(field.name),
            )
    return found


def merge(defaults: T, overrides: Mapping[str, Any], where: str, elsewhere: Collection[str] = ()) -> T:
    """`defaults`, a dataclass, with the settings of a file or a call put over it.

    An `int` is accepted as a float, a list as a tuple, a text as a list of one, `"None"` (TOML has no null) as None
    where the field can be.

    Args:
        where: what the settings were read from, for messages: `experiments/dqn.toml`.
        elsewhere: settings that the same call or file may name, and that other dataclasses have.

    Raises:
        UsageError: a name that the dataclass lacks (with the near miss) or a value of a wrong type.
    """
    settings = settings_of([defaults])
    values = {}
    for name, value in overrides.items():
        if name not in settings:
            if message := answer(name, {*settings, *elsewhere}, as_flags=False):
                raise UsageError(f"{where}: unknown setting {name}: {message}")
            if elsewhere and (of := agents_with([name])):
                raise UsageError(f"{where}: unknown setting {name}: it is a setting of {of} alone.")
            near = difflib.get_close_matches(name, [*settings, *elsewhere], n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted({*settings, *elsewhere}))}."
            raise UsageError(f"{where}: unknown setting {name}. {hint}")
        values[name] = settings[name].fitted(value, where)
    try:
        return dataclasses.replace(defaults, **values)  # type: ignore[type-var]
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _fitted(value: Any, hint: Any) -> Any:
    """`value`, out of TOML or a call, as a value of this type; `TypeError` where it is not one."""
    members, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        for member in members:
            with contextlib.suppress(TypeError):
                return _fitted(value, member)
    elif origin is tuple and members[-1] is Ellipsis and isinstance(value, str):
        return (_fitted(value, members[0]),)
    elif origin is tuple and isinstance(value, (list, tuple)):
        inner = members[:1] * len(value) if members[-1] is Ellipsis else members
        if len(inner) == len(value):
            return tuple(_fitted(v, m) for v, m in zip(value, inner, strict=True))
    elif origin is Literal:
        if any(value == member and type(value) is type(member) for member in members):
            return value
    elif hint is types.NoneType:
        if value is None or value == "None":
            return None
    elif hint in (bool, str):
        if isinstance(value, hint):
            return value
    elif not isinstance(value, bool) and isinstance(value, numbers.Integral if hint is int else numbers.Real):
        return hint(value)
    raise TypeError


def _parts(hint: Any) -> tuple[Any, ...]:
    """A type, followed by the marks that `Annotated` put on it."""
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)


def wanted(hint: Any) -> str:
    """A type in words: `a number (float)`, `one of auto, cpu, cuda`."""
    members, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(wanted(member) for member in members)
    if origin is Literal:
        return f"one of {', '.join(map(str, members))}"
    if origin is tuple:
        if members[-1] is Ellipsis:
            return f"a list of values, each {wanted(members[0])}"
        return f"{len(members)} values: {', '.join(wanted(member) for member in members)}"
    if hint not in WORDS:
        raise RlabError(f"a setting cannot have the type {hint}; it can be {', '.join(WORDS.values())}, or a list")
    return WORDS[hint]


def choices_of(hint: Any) -> tuple[str, ...]:
    """What a setting of this type, or each value of a list, can be, where that is a closed set of words; `None` is one
    of them."""
    members, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin is tuple and members[-1] is Ellipsis:
        return choices_of(members[0])
    if origin is Literal:
        return tuple(map(str, members))
    if origin in (Union, types.UnionType) and all(choices_of(m) or m is types.NoneType for m in members):
        return tuple(itertools.chain.from_iterable(choices_of(m) or ("None",) for m in members))
    return ()


def short_type(hint: Any) -> str:
    """A type as help pages write it: `INT`, `FLOAT ...` for a list."""
    members, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(short_type(member) for member in members if member is not types.NoneType))
    if origin is Literal:
        return "|".join(map(str, members))
    if origin is tuple:
        return f"{short_type(members[0])} ..." if members[-1] is Ellipsis else " ".join(map(short_type, members))
    return SHORT[hint]


@cache
def descriptions(kind: type) -> Mapping[str, str]:
    """The one line of help of each field of a dataclass; a field whose source cannot be read has none."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if dataclasses.is_dataclass(each):
            found |= {name: text for name, text in _own_descriptions(each).items() if text}
    return found


def _own_descriptions(kind: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(kind))
        (body,) = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    comments, alone = _comments(source)
    found = {}
    for node, after in itertools.zip_longest(body, body[1:]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = node.end_lineno or node.lineno
            after_it = [comments[line] for line in range(node.lineno, last + 1) if line in comments]
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            above = [comments[line] for line in range(first, node.lineno)]
            text = ast.unparse(after.value) if isinstance(after, ast.Expr) else ""
            below = ast.literal_eval(text) if text.startswith(("'", '"')) else ""
            found[node.target.id] = " ".join(" ".join(after_it or above or [below]).split())
    return found


def _comments(source: str) -> tuple[dict[int, str], set[int]]:
    """The comments by line, and the lines that hold nothing else."""
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("#: ").strip()
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    return comments, alone
