"""Names by which another process finds a class or function again: `module:Class`, `module:Outer.method`."""

import importlib.util
import inspect
import sys
from typing import Any


def importable_name(thing: Any) -> str | None:
    """`module:qualname` of a class or function where another process can import that very object; else None.

    None for a lambda, for what a function defines inside itself, for `functools.partial` and other instances, for what
    a notebook or the script itself defines (`__main__` is another module in every process), for a module that was made
    in memory, and for a name that now means something else (the class was replaced or wrapped after it was defined).
    """
    module_name, qualname = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not (isinstance(module_name, str) and isinstance(qualname, str)) or "<" in qualname:  # <lambda>, <locals>
        return None
    module = sys.modules.get(module_name)
    if module is None or not _can_be_found(module_name):
        return None
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    # A bound method (a class method that makes things) is a new object at every look, and equal to the last one.
    same = found is thing or (inspect.ismethod(thing) and found == thing)
    return f"{module_name}:{qualname}" if same else None


def _can_be_found(module_name: str) -> bool:
    """Whether importing looks for the module in a file or in the interpreter, as another process would."""
    if module_name in ("__main__", "__mp_main__"):
        return False
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):  # ValueError: a module in memory without a spec
        return False
    return spec is not None and spec.origin is not None
