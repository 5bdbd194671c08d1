"""What `config.json` must say for the rest of rlab to read it: kinds of values, and bounds of what they count."""

from collections.abc import Mapping
from typing import Any

from rlab.door import check_counts, clean
from rlab.errors import RlabError

MOST_MEMBERS = 1_000_000  # seeds, and envs of a member
MOST_STEPS = 10**15
REQUIRED: dict[str, type] = {"agent": str, "env": dict, "run": dict, "settings": dict}
KNOWN: dict[str, tuple[type, ...]] = {
    **{name: (kind,) for name, kind in REQUIRED.items()},
    "unit": (str,),
    "command": (str,),
    "commit": (str, type(None)),
    "origins": (dict,),
    "not_in_force": (dict,),
    "versions": (dict,),
    "sources": (dict,),
    "start": (dict, type(None)),
    "for_agent": (str, type(None)),
    "engine": (dict, type(None)),
    "computed_with": (dict,),
    "history": (list,),
    "trainable": (int, float),
    "vary": (list,),  # sets of settings, each with all seeds, in the order of the stack
    "evolution": (dict,),  # of a population: settings of each member at first, and how they change
    "of_stack": (dict,),  # in the folder of one of these sets: its number, and of how many it is
}
WORDS = {str: "a text", dict: "an object", list: "a list", int: "a number", float: "a number", type(None): "null"}


def check_config(config: Mapping[str, Any], path: object) -> None:
    """Refuse what a run cannot be listed, judged or gone on with by.

    Raises:
        RlabError: naming the first key that is missing or of another kind, or a count out of bounds.
    """
    for name in REQUIRED.keys() - config.keys():
        raise RlabError(f"{path} lacks {name!r}. Was it edited?")
    for name, kinds in KNOWN.items():
        if name in config and type(config[name]) not in kinds:
            wanted = " or ".join(dict.fromkeys(WORDS[kind] for kind in kinds))
            raise RlabError(f"{path}: {name!r} must be {wanted}, not {clean(repr(config[name])):.80}")
    if not isinstance(config["env"].get("env_id"), str):
        raise RlabError(f"{path}: 'env' names no env_id. Was it edited?")
    unit = config.get("unit", "env_steps")
    if unit not in ("env_steps", "updates"):
        raise RlabError(f"{path}: the unit of its clock must be env_steps or updates, not {clean(repr(unit)):.80}")
    run = config["run"]
    for name, most in (("seed", MOST_STEPS), ("seeds", MOST_MEMBERS), ("num_envs", MOST_MEMBERS), (unit, MOST_STEPS)):
        if run.get(name) is not None or name in ("seed", "seeds", unit):
            check_counts(path, most, **{name: run.get(name)})
    for point in config.get("vary", ()):
        if not isinstance(point, dict):
            raise RlabError(f"{path}: 'vary' must be a list of objects, not of {clean(repr(point)):.80}")
    for event in config.get("history", ()):
        if not isinstance(event, dict):
            raise RlabError(f"{path}: 'history' must be a list of objects, not of {clean(repr(event)):.80}")
