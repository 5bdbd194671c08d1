"""Errors that a user reads: one line that says what was wrong, what is allowed and the likeliest fix."""

import difflib
from collections.abc import Iterable

# The distribution, as pip knows it. The import name, `rlab`, belongs to a stranger's package in the index.
DISTRIBUTION = "rlab-agents"


def extra(name: str) -> str:
    """What pip must be given for an extra: `extra("box2d")` is `rlab-agents[box2d]`."""
    return f"{DISTRIBUTION}[{name}]"


def pip_install(name: str) -> str:
    """The line that installs an extra, to be copied from an error into a shell."""
    return f'pip install "{extra(name)}"'


class RlabError(Exception):
    """A run or a file failed; the command line prints the message and leaves with exit code 1."""

    exit_code = 1


class UsageError(RlabError):
    """The request itself was wrong; the command line leaves with exit code 2."""

    exit_code = 2


class RlabWarning(UserWarning):
    """Something went wrong that costs nothing: one line that says what."""


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """`unknown("agent", "dqm", AGENTS)` names the near miss, or else everything known."""
    known = sorted(known)
    by_small_letters = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_small_letters, n=1)
    listed = f"Known: {', '.join(known)}." if known else "There are none."
    hint = f"Did you mean {by_small_letters[near[0]]!r}?" if near else listed
    return UsageError(f"unknown {what} {name!r}. {hint}")
