"""Supervised learning the Python way: `fit(image_network((1, 8, 8), 10), images, labels, seeds=range(5))`.

The loop, the optimizers and the seed axis are those that agents learn with; see `rlab.learning.supervised`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rlab.errors import UsageError
from rlab.evaluation.stats import interval_over_members, iqm
from rlab.experience.examples import Examples as Examples
from rlab.jobs.progress import ProgressListener
from rlab.learning.contract import LoopListener
from rlab.learning.cross_validation import CrossValidation as CrossValidation
from rlab.learning.cross_validation import cross_validate as cross_validate
from rlab.learning.runtime import torch_settings as torch_settings
from rlab.learning.supervised import SupervisedSettings as SupervisedSettings
from rlab.learning.supervised_fit import Fitted as Fitted
from rlab.learning.supervised_fit import fit as fit
from rlab.learning.supervised_fit import fit_examples as fit_examples
from rlab.networks.bodies import BodySettings, mlp_spec
from rlab.networks.spec import LayerSpec as LayerSpec
from rlab.networks.spec import NetworkSpec as NetworkSpec
from rlab.networks.spec import StackedNetwork, build
from rlab.networks.stacking import unstack
from rlab.runs import files
from rlab.runs.logs import MetricsLog
from rlab.runs.weights import ModuleCopy, load_module, save_module
from rlab.trust import Trust, in_force

NETWORK = "network.json"


def vector_network(features: int, outputs: int, hidden: Sequence[int] = (64, 64), dropout: float = 0.0) -> NetworkSpec:
    """Vectors `[features]` to `outputs` logits or numbers through hidden ReLU layers.

    Raises:
        UsageError: a width is below 1, or dropout is not a share.
    """
    _check(features=features, outputs=outputs, hidden=hidden, dropout=dropout)
    return mlp_spec(features, outputs, BodySettings(tuple(hidden), dropout=dropout))


def image_network(
    shape: tuple[int, int, int],
    outputs: int,
    convolutions: Sequence[tuple[int, int, int]] = ((32, 3, 1), (64, 3, 1)),
    hidden: Sequence[int] = (128,),
    dropout: float = 0.0,
) -> NetworkSpec:
    """Images `[C, H, W]` to `outputs` logits or numbers: convolutions, then hidden layers, all with ReLU.

    Args:
        shape: of one image, channels first.
        convolutions: channels, kernel and stride of each; there is no padding.
        hidden: widths of the hidden layers after them.
        dropout: share of what goes into every linear layer that is set to zero in training.

    Raises:
        UsageError: the image is too small for the convolutions, a width is below 1, or dropout is not a share.
    """
    channels, height, width = shape
    _check(outputs=outputs, hidden=hidden, dropout=dropout, convolutions=[n for row in convolutions for n in row])
    layers: list[LayerSpec] = []
    for out_channels, kernel, stride in convolutions:
        if min(height, width) < kernel:
            raise UsageError(f"an image of {height}x{width} is too small for a {kernel}x{kernel} convolution.")
        sizes = {"in_channels": channels, "out_channels": out_channels, "kernel_size": kernel, "stride": stride}
        layers += [LayerSpec("conv2d", sizes), LayerSpec("relu")]
        channels, height, width = out_channels, (height - kernel) // stride + 1, (width - kernel) // stride + 1
    head = _top(channels * height * width, outputs, hidden, dropout)
    return NetworkSpec((*layers, LayerSpec("flatten"), *head))


def text_network(
    tokens: int,
    outputs: int,
    embedding: int = 32,
    hidden: int = 64,
    dropout: float = 0.0,
    padding_index: int | None = 0,
) -> NetworkSpec:
    """Sentences `[T]` of integers below `tokens` to `outputs` logits or numbers: embedding, GRU, one linear layer.

    Args:
        padding_index: the token that pads shorter sentences at the front; None: no padding.

    Raises:
        UsageError: a width is below 1, or dropout is not a share.
    """
    _check(tokens=tokens, outputs=outputs, embedding=embedding, hidden=[hidden], dropout=dropout)
    padding = {} if padding_index is None else {"padding_index": padding_index}
    layers = [
        LayerSpec("embedding", {"num_embeddings": tokens, "features": embedding, **padding}),
        LayerSpec("gru", {"in_features": embedding, "hidden": hidden}),
    ]
    return NetworkSpec((*layers, *_top(hidden, outputs, (), dropout)))


@contextmanager
def recorded(folder: Path | str, seeds: Sequence[int], updates: int) -> Iterator[tuple[LoopListener, ...]]:
    """Listeners for `fit`: curves in `folder`, as `metrics.jsonl` and for TensorBoard, and a progress bar.

    Args:
        seeds: those that are fitted.
        updates: how many there will be, for the bar: epochs times batches.

    Raises:
        RlabError: the folder cannot be written.
    """
    folder = Path(folder)
    files.make_folder(folder)
    log = MetricsLog(folder, seeds, iqm=iqm, summarise=interval_over_members, unit="updates")
    with closing(log), ProgressListener(updates, "updates") as bar:
        yield log, bar


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network from the disk, and the facts that were saved with it."""

    network: StackedNetwork  # [S, B, ...] in and out, in evaluation mode
    spec: NetworkSpec
    seeds: tuple[int, ...]
    extra: dict[str, Any]

    def member(self, seed: int | None = None) -> nn.Module:
        """The plain module of one training seed (None: the first), `[B, ...]` in and out.

        Raises:
            UsageError: no member has that training seed.
        """
        seed = self.seeds[0] if seed is None else seed
        if seed not in self.seeds:
            named = f"training seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
            raise UsageError(f"no member with training seed {seed}; this network has {named}.")
        return unstack(self.network, self.seeds.index(seed))


def save_network(
    folder: Path | str, network: nn.Module, spec: NetworkSpec, seeds: Sequence[int], extra: Mapping[str, Any]
) -> None:
    """Save a stack in `folder`, its spec as JSON and its weights as safetensors; a crash leaves the old or the new one.

    Args:
        extra: facts to save with it, as JSON.

    Raises:
        RlabError: the disk refuses.
    """
    save_module(Path(folder) / NETWORK, ModuleCopy.of(network, spec.to_json(), seeds), extra)


def load_network(folder: Path | str, trust: Trust = False) -> LoadedNetwork:
    """What `save_network` wrote, on the CPU. `trust` allows layers of other people's code, which loading would import.

    Raises:
        RlabError: one line on what is missing, changed, damaged or does not fit.
    """

    def rebuild(spec: Any, seeds: tuple[int, ...]) -> StackedNetwork:
        return build(NetworkSpec.from_json(spec), seeds, trust=in_force(trust))

    found = load_module(Path(folder) / NETWORK, rebuild)
    return LoadedNetwork(found.module.eval(), NetworkSpec.from_json(found.spec), found.seeds, found.extra)


def _top(features: int, outputs: int, hidden: Sequence[int], dropout: float) -> tuple[LayerSpec, ...]:
    """Hidden ReLU layers and one of `outputs`, with dropout in front of each."""
    layers = mlp_spec(features, outputs, BodySettings(tuple(hidden), dropout=dropout)).layers
    return (LayerSpec("dropout", {"p": dropout}), *layers) if dropout else layers


def _check(dropout: float, **sizes: int | Sequence[int]) -> None:
    if not 0.0 <= dropout < 1.0:
        raise UsageError(f"dropout {dropout} must be a share in [0, 1).")
    for name, size in sizes.items():
        if min([size] if isinstance(size, int) else [1, *size]) < 1:
            raise UsageError(f"{name} {size} must be 1 or more.")
