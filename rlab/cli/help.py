"""Help pages, printed from the same dataclasses that the flags are read into. Words are wrapped, never cut."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlab.cli.groups import COMMON, GROUP_OF, GROUPS, SHORT_PAGE
from rlab.cli.main import HELP_ALL, WIDEST
from rlab.jobs.settings import Setting, settings_of, short_type

COLUMN = 30  # where the description begins, on pages that are wide enough
NARROW = 60  # below this many characters the description has lines of its own


@dataclass(frozen=True)
class Page:
    """What a help page says besides the settings."""

    usage: str  # "rlab eval RUN [settings]"
    description: str = ""
    examples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # where to read on
    origins: Mapping[str, str] = field(default_factory=dict)  # setting -> where a default that differs comes from
    hidden: frozenset[str] = frozenset()  # settings that this agent does not read
    agent: str = ""  # whose own settings are on the page
    command: str = ""  # that --help-all can be added to; "": the usage without what may be left out


Groups = list[tuple[str, list[Setting]]]


def grouped(schemas: Sequence[Any], page: Page, one_heading: bool = True) -> Groups:
    """The settings under their headings; a verb with few has one heading for all, where `one_heading` allows it."""
    settings = [setting for setting in settings_of(schemas).values() if setting.name not in page.hidden]
    if one_heading and len(settings) <= SHORT_PAGE and len(schemas) == 1:
        words = [setting for setting in settings if setting.positional]
        rest = [setting for setting in settings if not setting.positional]
        return [(heading, found) for heading, found in (("arguments", words), ("settings", rest)) if found]
    of_agent = f"settings of {page.agent or 'the agent'}"
    by_heading: dict[str, list[Setting]] = {heading: [] for heading in (*GROUPS, of_agent)}
    for setting in settings:
        by_heading.setdefault(setting.group or GROUP_OF.get(setting.name, of_agent), []).append(setting)
    for heading, names in GROUPS.items():
        by_heading[heading].sort(key=lambda setting: names.index(setting.name) if setting.name in names else len(names))
    return [(heading, found) for heading, found in by_heading.items() if found]


def common(groups: Groups) -> Groups:
    """What most people use of them: what `COMMON` names, and all that is an agent's own."""
    if sum(len(found) for _, found in groups) <= SHORT_PAGE:
        return groups
    short = [(heading, [s for s in found if s.name in COMMON or s.name not in GROUP_OF]) for heading, found in groups]
    return [(heading, found) for heading, found in short if found]


def page_text(schemas: Sequence[Any], page: Page, everything: bool, width: int | None = None) -> str:
    """A help page of at most `width` characters a line, or of the terminal's (`COLUMNS`)."""
    width = min(width or shutil.get_terminal_size((80, 24)).columns, WIDEST)
    groups = grouped(schemas, page)
    shown = groups if everything else common(groups)
    lines = _wrapped(f"usage: {page.usage}", width, "  ")
    if page.description:
        lines += ["", *_wrapped(page.description, width)]
    for heading, found in shown:
        lines += ["", f"{heading}:"]
        for setting in found:
            lines += _setting_lines(setting, page, width)
    left = sum(len(found) for _, found in groups) - sum(len(found) for _, found in shown)
    command = page.command or page.usage.partition(" [")[0]
    notes = [f"{left} more settings: {command} {HELP_ALL}"] if left else []
    if page.examples:
        lines += ["", "examples:"]
        for example in page.examples:
            lines += _wrapped(example, width, "      ", "  ")
    for note in (*notes, *page.notes):
        lines += ["", *_wrapped(note, width)]
    return "\n".join(lines)


def metavar(setting: Setting) -> str:
    """How the value of a setting is written: `INT`, `{cpu, cuda}`, nothing for a flag without a value."""
    if setting.hint is bool:
        return ""
    if setting.choices:
        several = " ..." if short_type(setting.hint).endswith("...") else ""
        return "{" + ", ".join(setting.choices) + "}" + several
    return short_type(setting.hint)


def words_of(setting: Setting) -> str:
    """A setting as it is typed: `--gamma FLOAT`, `--layer-norm, --no-layer-norm`."""
    if setting.positional:
        choices = f" {metavar(setting)}" if setting.choices else ""
        return f"{setting.flag}{' ...' if short_type(setting.hint).endswith('...') else choices}"
    if setting.hint is bool:
        return f"{setting.flag}, --no-{setting.flag[2:]}" if setting.default or setting.usual else setting.flag
    return f"{setting.flag} {metavar(setting)}"


def default_text(setting: Setting, origin: str | None = None) -> str:
    """The default of a setting, and where it comes from when it is not the usual one."""
    if setting.required:
        return "(required)"
    if setting.positional:
        return ""
    usual = spelled(setting.usual)
    if setting.default == setting.usual or origin in (None, "default"):
        return f"(default: {spelled(setting.default)})"
    return f"(default: {spelled(setting.default)}, from {origin}; else {usual})"


def spelled(value: Any) -> str:
    """A value as it is typed on a command line."""
    if isinstance(value, tuple):
        return " ".join(map(spelled, value)) if value else "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _setting_lines(setting: Setting, page: Page, width: int) -> list[str]:
    typed, default = words_of(setting), default_text(setting, page.origins.get(setting.name))
    text = " ".join(filter(None, [setting.help, default]))
    if width >= NARROW and len(typed) + 4 <= COLUMN:
        first = f"  {typed}".ljust(COLUMN)
        return _wrapped(text, width, " " * COLUMN, first) if text else [first.rstrip()]
    indent = " " * (COLUMN if width >= NARROW else 6)
    return [*_wrapped(typed, width, "      ", "  "), *(_wrapped(text, width, indent, indent) if text else [])]


def _wrapped(text: str, width: int, indent: str = "", first: str = "") -> list[str]:
    # A word that is longer than the line stands alone on it, whole.
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
