"""Which classes and functions another process can import, and by which name."""

import collections
import functools
import json
import sys
import types

import pytest

from rlab.naming import importable_name


class Outer:
    class Inner: ...

    @classmethod
    def make(cls): ...


def function(): ...


def shadowed(): ...


hidden, shadowed = shadowed, function
unnamed = lambda: None  # noqa: E731


def local():
    def inner(): ...

    return inner


HERE = __name__


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (json.dumps, "json:dumps"),
        (collections.OrderedDict, "collections:OrderedDict"),
        (Outer, f"{HERE}:Outer"),
        (Outer.Inner, f"{HERE}:Outer.Inner"),
        (Outer.make, f"{HERE}:Outer.make"),
        (function, f"{HERE}:function"),
        (hidden, None),  # its name now means another function
        (unnamed, None),
        (local(), None),
        (functools.partial(function), None),
        (Outer(), None),
        (Outer().make, f"{HERE}:Outer.make"),  # a class method, whoever it was asked of
        ("json:dumps", None),
        (3, None),
    ],
)
def test_a_name_is_one_that_another_process_can_import(thing, name):
    assert importable_name(thing) == name


def test_what_a_script_or_a_module_in_memory_defines_has_no_name(monkeypatch):
    for module_name in ("__main__", "made_in_memory"):
        module = types.ModuleType(module_name)
        module.Env = type("Env", (), {"__module__": module_name})  # as a cell of a notebook does
        monkeypatch.setitem(sys.modules, module_name, module)
        assert importable_name(module.Env) is None
