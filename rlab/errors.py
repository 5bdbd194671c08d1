"""Errors that a user reads: one line with what was wrong, what is allowed and the likeliest fix."""

import difflib
from collections.abc import Iterable

# The distribution's name for pip. The import name, `rlab`, is taken by another package in the index.
DISTRIBUTION = "rlab-agents"


def extra(name: str) -> str:
    """An extra's name for pip: `extra("box2d")` is `rlab-agents[box2d]`."""
    return f"{DISTRIBUTION}[{name}]"


def pip_install(name: str) -> str:
    """The line that installs an extra, to be copied from an error into a shell."""
    return f'pip install "{extra(name)}"'


class RlabError(Exception):
    """A run or a file failed; the command line prints the message and exits with code 1."""

    exit_code = 1


class DiskError(RlabError):
    """The disk refused to take or to give something; the message names the path and the cause."""


class UsageError(RlabError):
    """The request itself was wrong; the command line exits with code 2."""

    exit_code = 2


class ToldElsewhereError(RlabError):
    """Another process of the same run has failed, and says with what: nobody need read it twice."""


def told_elsewhere(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised for, is one that another process tells of."""
    while error is not None:
        if isinstance(error, ToldElsewhereError):
            return True
        error = error.__cause__ or error.__context__
    return False


class RlabWarning(UserWarning):
    """Something went wrong that does no harm, in one line."""


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """`unknown("agent", "dqm", AGENTS)` names the near miss, or else everything known."""
    known = sorted(known)
    by_small_letters = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_small_letters, n=1)
    listed = f"Known: {', '.join(known)}." if known else "There are none."
    hint = f"Did you mean {by_small_letters[near[0]]!r}?" if near else listed
    return UsageError(f"unknown {what} {name!r}. {hint}")
