"""A user's own network, given from Python as a function."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from rlab.errors import UsageError
from rlab.naming import importable_name
from rlab.networks.own import remembered


def named_network(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, in which a function that makes a network's body is replaced by the name that finds it again.

    Raises:
        UsageError: a module was given, which is one member: rlab cannot make another one for each of the others.
    """
    given = settings.get("network")
    if isinstance(given, nn.Module):
        kind = type(given).__name__
        raise UsageError(f"network is one {kind}, and each member needs its own: network=lambda shape: {kind}(...)")
    if not callable(given):
        return dict(settings)
    return {**settings, "network": remembered(given, importable_name(given))}
