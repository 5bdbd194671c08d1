"""`rlab VERB`: finds the verb, and turns every error into one line and an exit code."""

import contextlib
import importlib
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import rlab
from rlab.cli.output import kept_clear, print_json
from rlab.door import clean
from rlab.ending import ends_with_line
from rlab.errors import RlabError, RlabWarning, UsageError, told_elsewhere, unknown
from rlab.machine import ranks_started
from rlab.trust import in_force

# What each verb does; the module of its name has `run`, and is imported when the verb is asked for.
VERBS = {
    "train": "train an agent in an environment: rlab train AGENT ENV",
    "eval": "judge a trained policy on seeds of its own",
    "play": "watch a trained policy, in a window or as a film",
    "resume": "go on with a run from its last save",
    "check": "play an env with random actions and report what is wrong with it",
    "trust": "let the code of a module run in this folder without --trust on every command",
    "list": "list agents, envs, experiments, runs, published policies, datasets or metrics",
    "collect": "record episodes of a policy, or of random actions, as a dataset",
    "pretrain": "learn a policy, or the body of one, from demonstrations",
    "finetune": "go on from a trained or pretrained policy in an environment",
    "compress": "make a trained policy smaller and faster, and report what that costs",
    "export": "write one member as one file: ONNX, torch.export, NumPy or C",
    "publish": "make a policy a numbered version of a model, with a card, here or on the Hugging Face hub",
    "serve": "answer requests over HTTP with trained policies",
    "compare": "say who is better, by how much and how sure that is",
    "explain": "say why a policy acts as it does, and whether that holds",
    "report": "put runs side by side on a page, or follow runs under way in a browser",
    "bench": "run experiment files and check their claims",
    "tune": "search for the settings of an agent in an environment",
    "doctor": "say what rlab runs on, what is missing and which runs are damaged",
}

TOGETHER = ("train", "resume", "finetune")  # verbs that several processes carry out, which torchrun starts
HELP_ALL = "--help-all"
HELP = frozenset({"-h", "--help", HELP_ALL})
STOPPED = 130  # exit code of what was interrupted: 128 + SIGINT, as shells count
WIDEST = 120  # characters of a line of help; longer ones are hard to read
CORE_PACKAGES = ("torch", "gymnasium", "numpy", "tensorboard", "safetensors", "tyro", "rich")
# `module:Class`, also as the value of a flag, and not `NAME:key=value`, as a wrapper of rlab's with settings is written
CODE = re.compile(r"(?:--[\w-]+=)?[A-Za-z_][\w.]*:(?!\w+=)[A-Za-z_]")
NO_MEMORY = "can't allocate memory"  # in torch's RuntimeError
EXAMPLES = ("rlab train dqn CartPole-v1 --seeds 10", "rlab list agents")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code is 0 when done, 1 when it failed and 2 when it was wrong.

    `--debug`, anywhere, prints the traceback of an error too. With `--json` an error is also one object on standard
    output: `{"format": 1, "error": ..., "exit_code": ...}`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug, as_json = "--debug" in words, "--json" in words
    ends_with_line(lambda line: _report(line, 1, debug, as_json))
    try:
        with _plain_warnings(), _sigterm_as_ctrl_c(), kept_clear(as_json and HELP.isdisjoint(words)):
            return _dispatch([word for word in words if word != "--debug"])
    except SystemExit as leaving:  # tyro leaves this way once it has printed a verb's help
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        return _report("interrupted", STOPPED, debug, as_json)
    except RlabError as error:
        return _report(str(error), error.exit_code, debug, as_json, told_elsewhere(error))
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            return 141  # 128 + SIGPIPE
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY in str(error)):
            return _report(f"there is not enough memory for this: {error}".rstrip(": "), 1, debug, as_json)
        return _report(_internal(error), 1, debug, as_json)
    finally:
        ends_with_line(None)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends a program as Ctrl+C does, in one line and with exit code 130, wherever it is."""
    main, before = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGTERM)
    if not main or before != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings of rlab are one line without the place in the code; all others look as usual."""
    before: Any = warnings.formatwarning

    def shown(message: Any, category: type[Warning], *place: Any, **line: Any) -> str:
        own = issubclass(category, RlabWarning)
        return f"warning: {clean(message)}\n" if own else str(before(message, category, *place, **line))

    warnings.formatwarning = shown
    try:
        yield
    finally:
        warnings.formatwarning = before


def usage() -> str:
    """The text of `rlab --help`."""
    width = min(shutil.get_terminal_size((80, 24)).columns, WIDEST)

    def wrapped(text: str, first: str = "", rest: str = "") -> str:
        return textwrap.fill(
            text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )

    verbs = (wrapped(summary, f"  {name:<8} ", " " * 11) for name, summary in VERBS.items())
    about = wrapped(rlab.__doc__ or "")
    examples = (wrapped(example, "  ", " " * 6) for example in EXAMPLES)
    notes = wrapped(
        "rlab VERB --help describes one verb; --debug shows the traceback of an error; --version shows the version."
    )
    parts = ("usage: rlab VERB ...", about, "\n".join(["verbs:", *verbs]), "\n".join(["examples:", *examples]), notes)
    return "\n\n".join(parts)


def _dispatch(words: list[str]) -> int:
    if not words:
        print(usage(), file=sys.stderr)
        return 2
    verb, *rest = words
    if verb in HELP - {HELP_ALL}:
        print(usage())
        return 0
    if verb == "--version":
        print(f"rlab {rlab.__version__}")
        return 0
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    if ranks_started()[1] > 1 and verb not in TOGETHER:
        raise UsageError(
            f"torchrun starts processes that {', '.join(TOGETHER)} one learner together; {verb} takes one."
        )
    if _names_code(rest):
        _see_current_folder()
    return int(importlib.import_module(f"rlab.cli.{verb}").run(rest))


def _names_code(words: Sequence[str]) -> bool:
    """Whether the user lets code of their own run: by its name (`my_agents:Mine`), by --trust, or by a list of this
    folder."""
    named = (CODE.match(word) for word in words)
    return "--trust" in words or any(named) or bool(in_force(False))


def _see_current_folder() -> None:
    # Last, and only where asked for: a file that lies there must not stand for a package that is missing.
    here = os.getcwd()
    if not sys.flags.safe_path and here not in sys.path:
        sys.path.append(here)


def leads() -> bool:
    """Whether this process reports: of several that `torchrun` started, the first."""
    return ranks_started()[0] == 0


def _report(message: str, code: int, debug: bool, as_json: bool, said: bool = False) -> int:
    if debug:
        traceback.print_exc()
    line = " ".join(clean(" ".join(message.split())).split())
    if not said:
        where = "" if leads() else " (process {} of {})".format(*ranks_started())
        print(f"rlab{where}: {line}", file=sys.stderr)
    if as_json and leads():
        print_json({"format": 1, "error": line, "exit_code": code})
    return code


def _internal(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in CORE_PACKAGES:
        return f"{error.name} is not installed in this Python; run `make train` in the clone, or `pip install -e .`"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    return f"internal error: {what} ({frame.name}, line {frame.lineno}); run again with --debug for the traceback"


def _reader_left() -> bool:
    """True when standard output is the broken pipe (`rlab list envs | head`), and not that of a worker."""
    try:
        print(flush=True)  # something must be written for the pipe to be tried
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush at exit is quiet
        return True
    return False
