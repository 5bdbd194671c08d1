"""A causal transformer over a window of steps as layers with memory, made of networks that stacks and plain networks
build alike: `attention`, and `residual` for what follows it.

What a transformer block is: attention(x) = x + output(heads), then residual(x) = x + body(x), each with a LayerNorm
before it ("pre-norm", Xiong et al. 2020; the order that Parisotto et al. 2020 found to train on memory tasks).
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.networks.branches import Streams
from rlab.networks.layers import StackedLayer, WeightLayer
from rlab.networks.memory import State
from rlab.networks.registry import register_shared

NETWORKS = ("norm", "query", "key", "value", "place", "output")
LONGEST_WAVE = 10_000.0  # Vaswani et al. 2017, section 3.5


class Attention(Streams):
    """Each step looks at the last `window` steps of its episode, itself included (Vaswani et al. 2017, section 3.2).

    How far back a step is enters as in Transformer-XL (Dai et al. 2019, section 3.3): to each key is added what the
    network `place` makes of the sines of that distance. The state is the inputs `inputs [S, B, W - 1, D]` of the steps
    before, the newest last, and `seen [S, B, W - 1]`: 1 where there was one in this episode, else 0.

    Args:
        norm, query, key, value, place, output: networks from D to D numbers.
        features: D.
        window: W, 2 or more.
        heads: into how many parts the D numbers are cut.
    """

    def __init__(
        self,
        norm: nn.Module,
        query: nn.Module,
        key: nn.Module,
        value: nn.Module,
        place: nn.Module,
        output: nn.Module,
        features: int,
        window: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.norm, self.query, self.key = norm, query, key
        self.value, self.place, self.output = value, place, output
        self.features, self.window, self.heads = features, window, heads
        self.waves: Tensor  # [W, D], the oldest step first
        self.register_buffer("waves", _waves(window, features), persistent=False)

    def streams(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in NETWORKS}

    def rebuilt(self, streams: Sequence[nn.Module]) -> Self:
        networks = dict(zip(NETWORKS, streams, strict=True))
        again = type(self)(**networks, features=self.features, window=self.window, heads=self.heads)
        again.waves = self.waves
        return again

    def initial_state(self, rows: int) -> State:
        """Zeros: nothing was seen."""
        members = stacked_members(self.query)
        lead = (rows,) if members is None else (members, rows)
        return {
            "inputs": self.waves.new_zeros(*lead, self.window - 1, self.features),
            "seen": self.waves.new_zeros(*lead, self.window - 1),
        }

    def forward(self, x: Tensor) -> Tensor:
        """`[S, B, T, D]`, which begins an episode, to `[S, B, T, D]`."""
        y, _ = self.unroll(x, self.initial_state(x.shape[-3]), x.new_zeros(x.shape[:-1], dtype=torch.bool))
        return y

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`[S, B, D]` to `[S, B, D]`, and the next state."""
        y, after = self._attend(x.unsqueeze(-2), state, None)
        return y.squeeze(-2), after

    def unroll(self, x: Tensor, state: State, begins: Tensor) -> tuple[Tensor, State]:
        """`[S, B, T, D]` to `[S, B, T, D]` and the last state; before a step where `begins [S, B, T]` is true nothing
        was seen."""
        return self._attend(x, state, begins)

    def unroll_ahead(self, x: Tensor, ahead: Tensor, state: State, begins: Tensor) -> tuple[Tensor, Tensor]:
        """As `rlab.networks.memory.unroll_ahead`: what is behind each step of `x` looks at the same steps before it."""
        inputs, visible = self._in_sight(x, state, begins)
        key, value = self._windows(self._normed(inputs))
        own = self._normed(ahead)
        own_key, own_value = (
            torch.cat([windows[..., 1:, :], self._heads(network, own).unsqueeze(-2)], dim=-2)
            for network, windows in ((self.key, key), (self.value, value))
        )
        itself = torch.cat([visible[..., 1:], torch.ones_like(visible[..., :1])], dim=-1)
        return self._mixed(x, key, value, visible), self._mixed(ahead, own_key, own_value, itself)

    def _attend(self, x: Tensor, state: State, begins: Tensor | None) -> tuple[Tensor, State]:
        inputs, visible = self._in_sight(x, state, begins)
        y = self._mixed(x, *self._windows(self._normed(inputs)), visible)
        seen = visible[..., -1, 1:]
        before = inputs[..., x.shape[-2] :, :].masked_fill(seen.unsqueeze(-1) == 0, 0.0)  # as after a reset
        return y, {"inputs": before, "seen": seen}

    def _in_sight(self, x: Tensor, state: State, begins: Tensor | None) -> tuple[Tensor, Tensor]:
        """All steps from the state's first on `[..., W - 1 + T, D]`, and which of the last W each of the T steps sees
        `[..., T, W]`."""
        steps, window = x.shape[-2], self.window
        seen = F.pad(state["seen"], (0, steps), value=1.0)  # [..., W - 1 + T]
        visible = seen.unfold(-1, window, 1)
        if begins is not None:
            episode = F.pad(begins.cumsum(dim=-1), (window - 1, 0))  # which one each step belongs to; the state's is 0
            visible = visible * (episode.unfold(-1, window, 1) == episode[..., window - 1 :].unsqueeze(-1))
        return torch.cat([state["inputs"], x], dim=-2), visible

    def _normed(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(_rows(x)).reshape(x.shape)
        return y

    def _windows(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of the last W steps of each of T, `[..., T, h, W, d]`."""
        key, value = (
            self._heads(network, normed).unfold(-3, self.window, 1).transpose(-1, -2)
            for network in (self.key, self.value)
        )
        return key, value

    def _mixed(self, x: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """What attention makes of T steps `[..., T, D]`."""
        query = self._heads(self.query, self._normed(x)).unsqueeze(-2)  # [..., T, h, 1, d]
        score = (query * (key + self._places(x.ndim))).sum(dim=-1) / math.sqrt(self.features // self.heads)
        # Masked by a number, not by -inf, whose gradient may be NaN; a step always sees itself.
        score = score.masked_fill(visible.unsqueeze(-2) == 0, -1e30)  # [..., T, h, W]
        mixed = (score.softmax(dim=-1).unsqueeze(-1) * value).sum(dim=-2).flatten(-2)  # [..., T, D]
        y: Tensor = x + self.output(_rows(mixed)).reshape(x.shape)
        return y

    def _heads(self, network: nn.Module, x: Tensor) -> Tensor:
        """`[..., T, D]` through a network, as `[..., T, h, d]`."""
        y: Tensor = network(_rows(x)).reshape(x.shape)
        return y.unflatten(-1, (self.heads, -1))

    def _places(self, dimensions: int) -> Tensor:
        """What is added to the keys of a window: `[h, W, d]`, with the axes of a stack before it."""
        members = stacked_members(self.query)
        waves = self.waves if members is None else self.waves.expand(members, -1, -1)
        place: Tensor = self.place(waves).unflatten(-1, (self.heads, -1)).transpose(-2, -3)  # [S, h, W, d]
        return place if members is None else place.reshape(members, *(1,) * (dimensions - 2), *place.shape[1:])

    def extra_repr(self) -> str:
        return f"features={self.features}, window={self.window}, heads={self.heads}"


class Residual(Streams):
    """`x + body(x)` (He et al. 2016)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y

    def streams(self) -> dict[str, nn.Module]:
        return {"body": self.body}

    def rebuilt(self, streams: Sequence[nn.Module]) -> Self:
        return type(self)(*streams)


def _rows(x: Tensor) -> Tensor:
    """The rows that networks take, `[S, R, D]` or `[R, D]` of one member, of `[S, B, T, D]` or `[B, T, D]`."""
    return x.flatten(-3, -2)


def stacked_members(network: nn.Module) -> int | None:
    """S of a stack; None of one member's network."""
    for layer in network.modules():
        if isinstance(layer, WeightLayer):
            return layer.members
        if isinstance(layer, StackedLayer) and (first := next(layer.parameters(), None)) is not None:
            return len(first)
    return None


def _waves(window: int, features: int) -> Tensor:
    """Sines and cosines of how far back each step of a window is, `[W, D]`: W - 1, ..., 1, 0."""
    back = torch.arange(window - 1, -1, -1, dtype=torch.float64).unsqueeze(-1)
    pairs = torch.arange((features + 1) // 2, dtype=torch.float64)
    angle = back * LONGEST_WAVE ** (-2.0 * pairs / features)  # [W, D / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[:, :features].float()


register_shared("residual", Residual, lambda layer: {})  # its streams are described by themselves
register_shared(
    "attention",
    Attention,
    lambda layer: {"features": layer.features, "window": layer.window, "heads": layer.heads},
)
