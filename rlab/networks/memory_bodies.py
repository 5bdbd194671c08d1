"""The layers with memory that an agent's settings ask for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from rlab.errors import UsageError, unknown
from rlab.networks.spec import LayerSpec

HEADS = 4  # of the transformer's attention
WIDER = (
    2  # times memory_size: the hidden layer behind the attention. Vaswani et al. 2017 have 4; windows here are short
)


@runtime_checkable
class NamesMemory(Protocol):
    """A config with `rlab.learning.common_config.MemoryConfig`'s settings."""

    @property
    def memory(self) -> str: ...
    @property
    def memory_size(self) -> int: ...
    @property
    def memory_window(self) -> int: ...


@dataclass(frozen=True)
class MemorySettings:
    """What remembers, how many numbers, and for a transformer over how many steps."""

    kind: str
    size: int
    window: int

    @classmethod
    def of(cls, config: Any) -> Self | None:
        """What an agent's config asks for; None where it asks for none."""
        if not isinstance(config, NamesMemory) or config.memory == "none":
            return None
        return cls(config.memory, config.memory_size, config.memory_window)

    def layers(self, features: int) -> tuple[LayerSpec, ...]:
        """Layers from `features` to `size` numbers, one of which has memory.

        Raises:
            UsageError: the kind is unknown or a number is out of range.
        """
        if self.kind not in KINDS:
            raise unknown("memory", self.kind, ("none", *KINDS))
        if self.size < 1:
            raise UsageError(f"memory_size {self.size} must be 1 or more.")
        return KINDS[self.kind](self, features)


def _unit(memory: MemorySettings, features: int) -> tuple[LayerSpec, ...]:
    return (LayerSpec(memory.kind, {"in_features": features, "hidden": memory.size, "sequence": True}),)


def _transformer(memory: MemorySettings, features: int) -> tuple[LayerSpec, ...]:
    """One block. Its input is a linear layer's, and behind it the sum is normalised, as pre-norm needs."""
    size = memory.size
    if size % HEADS:
        raise UsageError(f"memory_size {size} of a transformer must be a multiple of its {HEADS} heads.")
    if memory.window < 2:
        raise UsageError(f"memory_window {memory.window} must be 2 or more: the present step counts as one.")
    norm = LayerSpec("layer_norm", {"features": size})
    networks = {name: (_linear(size, size),) for name in ("query", "key", "value", "place", "output")}
    settings = {"features": size, "window": memory.window, "heads": HEADS}
    body = (norm, _linear(size, WIDER * size), LayerSpec("relu"), _linear(WIDER * size, size))
    attention = LayerSpec("attention", {"norm": (norm,), **networks, **settings})
    return _linear(features, size), attention, LayerSpec("residual", {"body": body}), norm


def _linear(in_features: int, out_features: int) -> LayerSpec:
    return LayerSpec("linear", {"in_features": in_features, "out_features": out_features, "init": "pytorch"})


KINDS: dict[str, Callable[[MemorySettings, int], tuple[LayerSpec, ...]]] = {
    "gru": _unit,
    "lstm": _unit,
    "transformer": _transformer,
}
