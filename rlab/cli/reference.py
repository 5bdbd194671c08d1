"""The whole command line as plain data: every verb and agent with its settings. The documentation is made from it."""

import importlib
from collections.abc import Sequence
from typing import Any

from rlab.agents import AGENTS, load_agent
from rlab.cli.groups import COMMON
from rlab.cli.help import Page, grouped, metavar, words_of
from rlab.cli.main import VERBS
from rlab.jobs.defaults import agent_config
from rlab.jobs.settings import Setting
from rlab.jobs.unread import unread_by_kind


def reference() -> dict[str, Any]:
    """`{"format": 1, "verbs": [...], "agents": [...]}`.

    A verb has `verb`, `summary`, `usage`, `description`, `examples`, `notes` and `groups`; an agent `agent`, `what`,
    `learns_from` ("replay", "rollout" or "dataset"), `unread` (settings of runs that it does not read, with the reason)
    and `groups`. A group has `heading` and `settings`; a setting `name`, `flag`, `typed` (as a command line has it),
    `type`, `choices` (a list, or None), `default` (plain data), `required`, `common` (on the short help page) and
    `help`. Agents of others are documented by `agent_reference`.
    """
    return {
        "format": 1,
        "verbs": [verb_reference(verb) for verb in VERBS],
        "agents": [agent_reference(agent) for agent in sorted(AGENTS)],
    }


def verb_reference(verb: str) -> dict[str, Any]:
    """One verb; see `reference`."""
    schemas, page = page_of(verb)
    return {
        "verb": verb,
        "summary": VERBS[verb],
        "usage": page.usage,
        "description": page.description,
        "examples": list(page.examples),
        "notes": list(page.notes),
        "groups": _groups(schemas, page),
    }


def agent_reference(agent: str) -> dict[str, Any]:
    """One agent, registered or `module:Class`, with its own defaults; see `reference`."""
    found: Any = load_agent(agent)
    return {
        "agent": agent,
        "what": (found.__doc__ or "").strip().partition("\n")[0],
        "learns_from": found.data,
        "unread": unread_by_kind(agent, found),
        "groups": _groups((agent_config(agent),), Page(agent, agent=agent), one_heading=False),
    }


def page_of(verb: str) -> tuple[Sequence[Any], Page]:
    """The dataclasses that a verb reads its words into, as its module names them, and its help page."""
    module = importlib.import_module(f"rlab.cli.{verb}")
    return module.SCHEMAS, module.PAGE


def _groups(schemas: Sequence[Any], page: Page, one_heading: bool = True) -> list[dict[str, Any]]:
    return [
        {"heading": heading, "settings": [_setting(setting) for setting in settings]}
        for heading, settings in grouped(schemas, page, one_heading)
    ]


def _setting(setting: Setting) -> dict[str, Any]:
    default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    return {
        "name": setting.name,
        "flag": setting.flag,
        "typed": words_of(setting),
        "type": metavar(setting) or "BOOL",
        "choices": list(setting.choices) or None,
        "default": default,
        "required": setting.required,
        "common": setting.name in COMMON,
        "help": setting.help,
    }
