"""Dataclasses to flags: tyro reads them; errors in them are reported here, in one line, and `rlab.cli.help` writes the
help.

A setting is an `int`, a `float`, a `bool`, a `str`, a `Literal`, a tuple of these, or one of these `| None`: what JSON
and TOML can carry. tyro's own complaints are boxed panels of many lines, so the words are looked through before tyro
sees them.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union

import tyro

from rlab.cli.help import Page, page_text
from rlab.cli.main import HELP, HELP_ALL
from rlab.door import without_password
from rlab.errors import UsageError
from rlab.jobs.aliases import agents_with, answer, check_not_a_policy
from rlab.jobs.settings import Setting, settings_of, wanted


def parse(
    argv: Sequence[str], schemas: Sequence[Any], *, prog: str, subject: str = "", page: Page | None = None
) -> tuple[Any, ...]:
    """One filled instance per schema. `--help` prints the help and leaves with `SystemExit(0)`.

    Args:
        argv: the words after the verb.
        schemas: dataclasses with different field names; an instance gives the defaults, a class has its own. A field
            annotated `tyro.conf.Positional[...]` is written without its name.
        prog: how the command starts, for messages: `rlab train dqn`.
        subject: whose settings these are, for messages: `unknown setting --gama for dqn`.
        page: what the help says besides; None: nothing.

    Raises:
        UsageError: a flag that no schema has, a value that is missing or of a wrong type, a word too many.
        RlabError: two schemas share a field name, or a field's type is none of those above.
    """
    settings = settings_of(schemas)
    if HELP & set(argv):
        print(page_text(schemas, page or Page(f"{prog} [settings]"), everything=HELP_ALL in argv))
        raise SystemExit(0)
    _check(_values(argv, settings, prog, subject), settings)
    parts = dataclasses.make_dataclass("Settings", list(map(_part, itertools.count(), schemas)), kw_only=True)
    panel = io.StringIO()
    try:
        with contextlib.redirect_stderr(panel):
            filled: Any = tyro.cli(parts, args=list(argv), prog=prog, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit:
        raise UsageError(_message(panel.getvalue())) from None
    return tuple(getattr(filled, field.name) for field in dataclasses.fields(parts))


def given(argv: Sequence[str], schemas: Sequence[Any]) -> frozenset[str]:
    """The names of the fields that the command line sets, whatever it sets them to."""
    return frozenset(_values(argv, settings_of(schemas), "rlab", ""))


def _part(number: int, schema: Any) -> Any:
    """One schema as a field of the dataclass that tyro sees; no name of it is shown."""
    if isinstance(schema, type):
        return f"part_{number}", schema
    return f"part_{number}", type(schema), dataclasses.field(default=schema)


def _values(argv: Sequence[str], settings: Mapping[str, Setting], prog: str, subject: str) -> dict[str, list[str]]:
    """The words given to each setting that the command line names."""
    values: dict[str, list[str]] = {}
    waiting = [setting for setting in settings.values() if setting.positional]
    words = list(argv)
    while words:
        word = words.pop(0)
        if word in HELP:
            continue
        if _is_flag(word):
            setting = _setting_of(word, settings, prog, subject)
            values[setting.name] = _take(word, words, setting)
        elif waiting:
            setting = waiting.pop(0)
            values[setting.name] = _take(setting.flag, [word, *words], setting)
            del words[: len(values[setting.name]) - 1]
        else:
            check_not_a_policy(word)
            raise UsageError(f"one word too many: {word!r}. Settings are written --name value")
    return values


def _is_flag(word: str) -> bool:
    if not word.startswith("-"):
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False  # a negative number is a value


def _setting_of(word: str, settings: Mapping[str, Setting], prog: str, subject: str) -> Setting:
    flag = word.partition("=")[0]
    name = flag.lstrip("-").replace("-", "_")
    positive = settings.get(name.removeprefix("no_"))
    setting = settings.get(name) or (positive if positive and positive.hint is bool else None)
    if flag.startswith("--") and setting and not setting.positional:
        return setting
    whom = f" for {subject}" if subject else ""
    if message := answer(name.removeprefix("no_"), settings, as_flags=True):
        raise UsageError(f"unknown setting {flag}{whom}: {message}")
    of_whom = agents_with({name, name.removeprefix("no_")} - settings.keys())
    if subject and flag.startswith("--") and positive is None and of_whom:
        raise UsageError(f"unknown setting {flag}{whom}: it is a setting of {of_whom} alone.")
    flags = {s.name: s.flag for s in settings.values() if not s.positional}
    near = difflib.get_close_matches(name, flags, n=1)
    hint = f"Did you mean {flags[near[0]]}?" if near else f"{prog} --help lists the settings."
    raise UsageError(f"unknown setting {flag}{whom}. {hint}")


def _take(word: str, words: list[str], setting: Setting) -> list[str]:
    """Take the values of the flag `word` from the front of `words`."""
    _, equals, value = word.partition("=")
    if setting.hint is bool:
        if equals or (words and words[0].lower() in ("true", "false", "yes", "no", "on", "off", "0", "1")):
            raise UsageError(f"{setting.flag} takes no value: write {setting.flag} or --no-{setting.flag[2:]}")
        return [str(word.lstrip("-").replace("-", "_") == setting.name)]
    least, most = _word_count(setting.hint)
    taken = [value] if equals else []
    while not equals and words and not _is_flag(words[0]) and (most is None or len(taken) < most):
        taken.append(words.pop(0))
    if len(taken) < least and taken != ["None"]:
        raise UsageError(f"{setting.flag}: a value is missing; give {wanted(setting.hint)}")
    return taken


def _word_count(hint: Any) -> tuple[int, int | None]:
    """The least and the most words that a value of this type is written with; None: any number."""
    members, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin is tuple:
        return (0, None) if members[-1] is Ellipsis else (len(members), len(members))
    if origin in (Union, types.UnionType):
        counts = [_word_count(member) for member in members if member is not types.NoneType]
        mosts = [most for _, most in counts if most is not None]
        return min(least for least, _ in counts), max(mosts) if len(mosts) == len(counts) else None
    return 1, 1


def _check(values: Mapping[str, list[str]], settings: Mapping[str, Setting]) -> None:
    for name, words in values.items():
        setting = settings[name]
        if not _reads(words, setting.hint):
            near = difflib.get_close_matches(words[0], setting.choices, n=1) if len(words) == 1 else []
            hint = f". Did you mean {near[0]}?" if near else _meant(setting, words)
            raise UsageError(f"{' '.join([setting.flag, *words])}: not {wanted(setting.hint)}{hint}")
    for name, setting in settings.items():
        if setting.required and name not in values:
            what = f" ({setting.help})" if setting.help else ""
            raise UsageError(f"{setting.flag} is missing; give {wanted(setting.hint)}{what}")


def _meant(setting: Setting, words: Sequence[str]) -> str:
    """How values are written that are right but for commas, or for a whole number in scientific notation."""
    split = [part for word in words for part in word.strip("[]()").split(",") if part]
    several = _word_count(setting.hint)[1] != 1
    if several and split != list(words) and _reads(split, setting.hint):
        return f". Values stand apart: {setting.flag} {' '.join(split)}"
    with contextlib.suppress(ValueError, OverflowError):
        whole = [str(int(float(word))) for word in words if float(word).is_integer()]
        if len(whole) == len(words) and _reads(whole, setting.hint):
            return f". Write {' '.join(whole)}"
    return ""


def _reads(words: Sequence[str], hint: Any) -> bool:
    """True when the words can be read as a value of this type."""
    members, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_reads(words, member) for member in members)
    if origin is tuple:
        inner = members[:1] * len(words) if members[-1] is Ellipsis else members
        return len(inner) == len(words) and all(_reads([w], m) for w, m in zip(words, inner, strict=True))
    if len(words) != 1:
        return False
    if origin is Literal or hint in (bool, types.NoneType):
        return words[0] in map(str, members or _SPELLINGS[hint])
    try:
        hint(words[0])
    except ValueError:
        return False
    return True


_SPELLINGS: dict[type, tuple[Any, ...]] = {bool: (True, False), types.NoneType: (None,)}


def _message(panel: str) -> str:
    """What a panel of tyro says above its first rule, without the frame."""
    lines = (line.strip("│ ") for line in panel.splitlines() if line.startswith("│"))
    message = " ".join(itertools.takewhile(lambda line: set(line) != {"─"}, lines))
    return re.sub(r"^Error parsing \S+: ", "", message) or "tyro refused the command line"


def command_words() -> str:
    """The command line as it was typed, without the path of the interpreter, and without passwords: runs keep it."""
    return without_password(" ".join(["rlab", *sys.argv[1:]]))
