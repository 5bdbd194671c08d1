"""`EnvSpec`: which env a run uses, as plain data for experiment files, `config.json`, policies and flags."""

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec as Registered

from rlab.envs import plain
from rlab.envs.atari import ATARI_FRAMES, ATARI_KEYWORDS, ATARI_STACK
from rlab.envs.ids import ALE, foreign_module, record_of, registered
from rlab.envs.watch import ENV_TIMEOUT
from rlab.envs.wrappers import ATARI, check_wrapper, foreign_wrapper_module
from rlab.errors import RlabError, UsageError
from rlab.ranges import check_seconds
from rlab.types import Json

# Keywords of Gymnasium's `make` itself, and where rlab sets them.
RESERVED_KWARGS = {
    "max_episode_steps": "use --max-episode-steps",
    "render_mode": "rlab chooses it",
    "disable_env_checker": "rlab chooses it",
    "id": "it is the env's name",
}
PYTHON_WORDS = {"True": True, "False": False, "None": None}
NOT_JSON = ("NaN", "nan", "Infinity", "inf")

# Foreign envs that the user of this process named or gave as a class, so that a run which was just trained in one can
# be evaluated without asking for trust again. Names from files never get in here.
named_here: set[str] = set()

T = TypeVar("T")


@dataclass(frozen=True)
class EnvSpec:
    """An env by id, with its keywords and wrappers. Nothing is imported or looked up until it is made.

    `wrappers` are applied from first to last, around Gymnasium's own time limit. Keywords and arguments are copied and
    become plain data at once (`rlab.envs.plain` has the rule), so that training, resuming and evaluation give an env
    the same. The wrapper `Atari` becomes what it stands for: see `rlab.envs.atari`. Lists among the arguments
    of wrappers become tuples, which Gymnasium's own wrappers expect for shapes.

    An env that other processes cannot find by its `env_id` is `local`: `maker` makes it in the process that has it, and
    a spec that was read from a file has none. The time that its calls may take depends on the machine: it is not saved.

    Raises:
        UsageError: a keyword or argument that config.json cannot hold, or that rlab sets itself.
    """

    env_id: str
    kwargs: dict[str, Any] = field(default_factory=dict)  # to the env's constructor
    wrappers: tuple[tuple[str, dict[str, Any]], ...] = ()  # (name or "module:Class", arguments)
    max_episode_steps: int | None = None  # env steps; None: the registered time limit, if any
    local: bool = False  # whether `env_id` is a name in one process only
    maker: Callable[..., gym.Env] | None = field(default=None, repr=False, compare=False)  # takes `kwargs`
    timeout: float = field(default=ENV_TIMEOUT, repr=False, compare=False)  # seconds for each call of the env

    def __post_init__(self) -> None:
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise UsageError(f"max_episode_steps must be 1 or more, not {self.max_episode_steps}")
        check_seconds(self, "timeout")
        object.__setattr__(self, "local", self.local or self.maker is not None)
        kwargs = plain.plain(self.kwargs, "env_kwargs")
        given = ((name, plain.plain(args, f"wrapper {name}", lists_as_tuples=True)) for name, args in self.wrappers)
        kwargs, wrappers = _preset(kwargs, tuple(given))
        object.__setattr__(self, "kwargs", kwargs)
        object.__setattr__(self, "wrappers", wrappers)
        for key in RESERVED_KWARGS.keys() & self.kwargs.keys():
            raise UsageError(f"{key} cannot be an env keyword: {RESERVED_KWARGS[key]}")

    @classmethod
    def parse(
        cls,
        env_id: str,
        env_kwargs: Sequence[str] | Mapping[str, Any] = (),
        wrappers: Sequence[str] = (),
        max_episode_steps: int | None = None,
    ) -> "EnvSpec":
        """From the words of a command line, checked: the env exists here, and so do the wrappers.

        Args:
            env_id: `CartPole-v1`, `ALE/Pong-v5` or `module:Env-v0`.
            env_kwargs: `key=value` each; a value is a JSON or Python literal (`[3, 9]` is a list, `(3, 9)` a tuple),
                else a text. From Python: a dict of values.
            wrappers: `NAME` or `NAME:key=value,key=value` each; NAME may be `their.module:Class`.
            max_episode_steps: replaces the registered time limit.

        Raises:
            UsageError: anything that does not exist or does not parse.
        """
        spec = cls(env_id, env_keywords(env_kwargs), parse_wrappers(wrappers), max_episode_steps)
        spec.check()
        return spec

    def check(self) -> Registered:
        """Gymnasium's record of the env; raises UsageError where the env or a wrapper does not exist here."""
        if self.maker is not None:
            found = record_of(self.env_id, self.maker)
        elif self.local and self.env_id not in gym.registry:
            raise UsageError(
                f"the env {self.env_id} was defined in a notebook, a script or a lambda, where no other process finds "
                "it: pass it again from Python, as in rlab.evaluate(run, env=...), or put it into a module and train "
                "with module:Class"
            )
        else:
            found = registered(self.env_id)
        for name, _ in self.wrappers:
            check_wrapper(name)
            if name == "AtariFrames" and not found.id.startswith(ALE):
                raise UsageError(f"the wrappers Atari and AtariFrames are for Atari games, {ALE}...; not {found.id}")
        return found

    def changed(
        self,
        env_kwargs: Sequence[str] | Mapping[str, Any] | None = None,
        wrappers: Sequence[str] | None = None,
        max_episode_steps: int | None = None,
    ) -> "EnvSpec":
        """The same env with these keywords, wrappers or time limit, written as for `parse`, instead of its own; None
        keeps them.

        Raises:
            UsageError: a keyword that does not parse, or a wrapper that does not exist or does not parse.
        """
        spec = self if env_kwargs is None else replace(self, kwargs=env_keywords(env_kwargs))
        spec = spec if wrappers is None else replace(spec, wrappers=parse_wrappers(wrappers))
        spec = spec if max_episode_steps is None else replace(spec, max_episode_steps=max_episode_steps)
        spec.check()
        return spec

    @property
    def foreign_modules(self) -> tuple[str, ...]:
        """Modules that making this env imports by name: a spec that was read from a file needs trust for them.

        The env's own module is left out where the user named that env in this process before.
        """
        of_env = foreign_module(self.env_id)
        return self.modules_elsewhere[self.env_id in named_here and of_env is not None :]

    @property
    def modules_elsewhere(self) -> tuple[str, ...]:
        """Those that another process needs trust for, where nobody has named the env; the env's own is the first."""
        modules = [foreign_module(self.env_id), *(foreign_wrapper_module(name) for name, _ in self.wrappers)]
        return tuple(module for module in modules if module is not None)

    @property
    def label(self) -> str:
        """The env in words: its id, its keywords and its wrappers."""
        kwargs = ", ".join(f"{key}={value}" for key, value in self.kwargs.items())
        wrappers = [f"{name}({', '.join(f'{k}={v}' for k, v in args.items())})" for name, args in self.wrappers]
        return " + ".join([f"{self.env_id}({kwargs})" if kwargs else self.env_id, *wrappers])

    def to_json(self) -> dict[str, Any]:
        """The spec as plain data; `local` is left out where it is false, and the maker always is."""
        return {
            "env_id": self.env_id,
            "kwargs": plain.to_json(self.kwargs),
            "wrappers": [{"name": name, "args": plain.to_json(args)} for name, args in self.wrappers],
            "max_episode_steps": self.max_episode_steps,
            **({"local": True} if self.local else {}),
        }

    @classmethod
    def from_json(cls, data: Json) -> "EnvSpec":
        """The spec that `to_json` wrote; nothing is looked up, so the env need not be installed.

        Raises:
            RlabError: the data is not of that shape.
        """
        try:
            rows = [(_typed(row["name"], str), _typed(row["args"], dict)) for row in data["wrappers"]]
            wrappers = tuple((name, plain.from_json(args)) for name, args in rows)
            limit = data["max_episode_steps"]
            limit = None if limit is None else _typed(limit, int)
            kwargs = plain.from_json(_typed(data["kwargs"], dict))
            local = _typed(data.get("local", False), bool)
            return cls(_typed(data["env_id"], str), kwargs, wrappers, limit, local)
        except (KeyError, TypeError, ValueError) as error:
            raise RlabError(f"this env spec cannot be read: {type(error).__name__}: {error}") from error


def _preset(
    kwargs: dict[str, Any], wrappers: tuple[tuple[str, dict[str, Any]], ...]
) -> tuple[dict[str, Any], tuple[tuple[str, dict[str, Any]], ...]]:
    """The keywords and wrappers with the wrapper `Atari`, which takes the arguments of `AtariFrames`, spelled out."""
    expanded: list[tuple[str, dict[str, Any]]] = []
    for name, args in wrappers:
        if name == ATARI:
            kwargs = {**ATARI_KEYWORDS, **kwargs}
            expanded += [("AtariFrames", {**ATARI_FRAMES, **args}), ("FrameStack", dict(ATARI_STACK))]
        else:
            expanded.append((name, args))
    return kwargs, tuple(expanded)


def env_keywords(given: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of an env from the words `key=value` of a command line, or from a dict.

    Raises:
        UsageError: a word that does not parse, or something else than a dict or words.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, str) or not all(isinstance(word, str) for word in given):
        raise UsageError(f"env_kwargs are a dict, or words such as 'key=value', not {given!r:.80}")
    return dict(_key_value(word, "--env-kwargs") for word in given)


def _typed(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value


def parse_wrappers(words: Sequence[str]) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Names and arguments in words such as `NAME:key=value`; nothing is looked up. Raises UsageError where one does not
    parse."""
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"wrappers are a list of names, such as ['FlattenObservation'], not {words!r:.80}")
    return tuple(_parse_wrapper(word) for word in words)


def _parse_wrapper(word: str) -> tuple[str, dict[str, Any]]:
    """`NAME`, `NAME:key=value,...`, `module:Class` or `module:Class:key=value,...`."""
    name, colon, rest = word.partition(":")
    if colon and not re.match(r"\w+=", rest):  # the first colon belongs to module:Class
        class_name, colon, rest = rest.partition(":")
        name = f"{name}:{class_name}"
    args = [_key_value(part, f"--wrapper {name}") for part in _split_commas(rest)] if colon else []
    return name, dict(args)


def _split_commas(text: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes: `shape=[84,84],keep_dim=true`."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        depth += 0 if quoted else (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _key_value(word: str, flag: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError(f"{flag} expects key=value, not {word!r}")
    if text in PYTHON_WORDS:  # "False" as a text would count as true
        return key, PYTHON_WORDS[text]
    if text.lstrip("+-") in NOT_JSON:
        raise UsageError(f"{flag} {word}: config.json holds finite numbers only; a text is {key}='\"{text}\"'")
    try:
        return key, json.loads(text, parse_constant=_not_json)
    except ValueError:
        if text[:1] not in ("[", "(", "{", '"'):
            return key, text
    try:
        return key, ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        hint = 'texts inside brackets need quotes: ["a"]'
        raise UsageError(f"{flag} {word}: {text} is neither JSON nor a Python literal; {hint}") from None


def _not_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")  # Python's reader would take NaN and Infinity
