"""The user's own bodies: a function that makes a plain `torch.nn.Module`, by name, and a stack of such modules.

A function is named `module:function`. One that no other process can import (a lambda, one of a notebook) is named
`local:...`, known to the process that defined it, and given again where a policy is loaded.
"""

import copy
import inspect
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rlab.draws import Draws
from rlab.errors import RlabError, UsageError
from rlab.networks.batch_renorm import BatchRenorm
from rlab.networks.registry import LayerKind, register
from rlab.networks.spaces import space_from_json
from rlab.trust import Trust, check_code, trusted
from rlab.types import LOCAL

Builder = Callable[..., Any]
OWN = "own"  # the kind of a body that a function of the user's makes
TAKES = ("obs_space", "shape", "settings")  # what a function may ask for, by these names or in this order
_of_this_process: dict[str, Builder] = {}
_standing_in: list[Builder] = []


def remembered(builder: Builder, importable: str | None) -> str:
    """The name under which `find_builder` finds a function again: its importable one, else one of this process.

    The caller who passes the function trusts it, so that it runs without `trust` in this process.
    """
    if importable is not None:
        _of_this_process[importable] = builder
        return importable
    for name, known in _of_this_process.items():
        if known is builder and name.startswith(LOCAL):
            return name
    # Functions of one source may hold different values (`partial`, closures, defaults, objects), here or in another
    # process, so that the name tells nothing of what the function is: each function object has one of its own.
    label = getattr(builder, "__name__", type(builder).__name__).strip("<>")
    name = f"{LOCAL}{label}-{secrets.token_hex(6)}"
    _of_this_process[name] = builder
    return name


def plain_name(name: str) -> str:
    """`lambda` or `body` of the name that a function of this process was given, `module:function` as it is."""
    return name.removeprefix(LOCAL).rpartition("-")[0] if name.startswith(LOCAL) else name


def whose(name: str) -> str:
    """What to call a network of the user's own in a message: `the network of 'body'`."""
    return f"the network of {plain_name(name)!r}"


def check_builder(name: str, trust: Trust) -> None:
    """Refuse a function that is not trusted; one that this process was given as an object is.

    Raises:
        RlabError: it is code from outside rlab and `trust` is false.
    """
    if not name.startswith(LOCAL) and name not in _of_this_process:
        check_code("layer", name, trust)


@contextmanager
def standing_in(builder: Builder | None) -> Iterator[None]:
    """Inside, this function makes every body whose own one no process but another could find; None changes nothing."""
    if builder is None:
        yield
        return
    _standing_in.append(builder)
    try:
        yield
    finally:
        _standing_in.pop()


def find_builder(name: str) -> Builder:
    """The function behind a name.

    Raises:
        RlabError: it is one of another process.
        UsageError: there is no such module or function.
    """
    if name.startswith(LOCAL):
        if not _standing_in and name not in _of_this_process:
            raise RlabError(
                f"the network is made by the function {plain_name(name)!r} of another "
                "process: give it again from Python, rlab.load(run, network=my_function)."
            )
        return _standing_in[-1] if _standing_in else _of_this_process[name]
    if not all(name.partition(":")):
        raise UsageError(f"network {name!r} must be named module:function.")
    found = trusted("network", name, True)  # the caller has asked for trust
    if not callable(found):
        raise UsageError(f"network {name!r} is a {type(found).__name__}, not a function that makes a network.")
    builder: Builder = found
    return builder


def made(name: str, given: Mapping[str, Any], seed: int) -> Any:
    """What the function makes of `given`, its random numbers from torch's global stream begun at `seed`, which is put
    back afterwards.

    Args:
        given: `obs_space` as JSON, `shape`, and the agent's `settings` as a dict.

    Raises:
        UsageError: it fails, asks for something else, or makes something that cannot be a body.
    """
    builder, values = find_builder(name), _arguments(given)
    try:
        parameters = [p for p in inspect.signature(builder).parameters.values() if p.default is p.empty]
    except (TypeError, ValueError):
        parameters = []
    asked = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if set(asked) <= set(TAKES):
        arguments, keywords = (), {key: values[key] for key in asked}
    elif len(asked) in (1, len(TAKES)):
        arguments, keywords = (values["shape"],) if len(asked) == 1 else tuple(values.values()), {}
    else:
        asks = f"the network's function {plain_name(name)!r} has the arguments {', '.join(asked)}"
        raise UsageError(f"{asks}; it can have {', '.join(TAKES)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            found = builder(*arguments, **keywords)
        except RlabError:
            raise
        except Exception as error:
            failed = f"the network's function {plain_name(name)!r} failed"
            raise UsageError(f"{failed}: {type(error).__name__}: {error}") from error
        return _checked(found, name, values["shape"])


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "obs_space": space_from_json(given["obs_space"]),
        "shape": tuple(given["shape"]),
        "settings": SimpleNamespace(**given["settings"]),
    }


def _checked(found: Any, name: str, shape: tuple[int, ...]) -> Any:
    if not isinstance(found, nn.Module):
        return found
    if any(nn.parameter.is_lazy(p) for _, p in _places(found)):
        _find_sizes(found, name, shape)
    check_without_batches(found, name)
    for layer in found.modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise UsageError(
                f"{whose(name)} was compiled with torch.jit, and rlab cannot put weights of each member into "
                "it. Give the plain module, without torch.jit.script or torch.jit.trace."
            )
    return found.float()


def check_without_batches(network: nn.Module, name: str) -> None:
    """Raise UsageError where a layer of the user's network works with statistics of batches."""
    for layer in network.modules():
        batch_norm = isinstance(layer, nn.modules.batchnorm._BatchNorm | BatchRenorm)
        if batch_norm or getattr(layer, "track_running_stats", False):
            raise UsageError(
                f"{whose(name)} has a {type(layer).__name__}, and statistics of a batch would let rows and "
                "members depend on each other. Use nn.LayerNorm, or nn.GroupNorm for images."
            )


@torch.no_grad()
def _find_sizes(module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Lazy layers (nn.LazyLinear) learn their sizes, and draw their weights, in a first forward pass."""
    before = module.training
    try:
        module.eval()(torch.zeros(1, *shape))
    except Exception as error:
        raise UsageError(f"{whose(name)} does not take features {shape}: {first_line(error)}") from error
    module.train(before)


@contextmanager
def seeded_torch(words: Sequence[int], device: torch.device) -> Iterator[None]:
    """A block in which torch's global stream, from which plain layers draw, begins with these two words of `Draws`;
    behind it the stream is as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(words[0] << 32 | words[1])
        yield


class OwnBody(nn.Module):
    """S copies of a plain module that a function makes, `[S, B, *shape]` in and `[S, B, ...]` out.

    They run under `torch.vmap`, or one after another where a layer does not take that. With dropout in training they
    run one after another, each on noise of its own.
    """

    def __init__(self, members: int, builder: str, given: Mapping[str, Any]) -> None:
        super().__init__()
        self.members, self.builder, self.given = members, builder, dict(given)
        plain = made(builder, given, 0)
        if not isinstance(plain, nn.Module):
            raise UsageError(
                f"the network's function {builder!r} returned a {type(plain).__name__}, not a torch.nn.Module."
            )
        self._plain = _Plain(plain, builder)
        self.weights = nn.ParameterDict()
        self._names: dict[str, str] = {}  # name in the plain module -> name here; two where layers share a tensor
        for name, value in _tensors(plain):
            own = _key(name)
            stacked = torch.stack([value.detach()] * members)
            if isinstance(value, nn.Parameter) and value.requires_grad:
                self.weights[own] = nn.Parameter(stacked)
            else:
                self.register_buffer(f"fixed-{own}", stacked)
            self._names |= dict.fromkeys((place for place, tensor in _places(plain) if tensor is value), own)
        self.drops = self._draws()
        if self.drops:
            self.draws: Draws | None = None
        self.one_by_one = members == 1 or self._failure(one_by_one=False) is not None
        failure = self._failure(one_by_one=True) if self.one_by_one else None
        if failure is not None:
            raise UsageError(f"the network of {builder!r} cannot be trained: {first_line(failure)}") from failure

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.drops:
            if self.draws is None:
                raise RlabError("dropout in training needs random numbers: set its `draws`, or call eval().")
            words = self.draws.words(2).tolist()
            return torch.stack([self._with_noise(i, x[i], words[i]) for i in range(self.members)])
        return self._run(x, self.one_by_one)

    def train(self, mode: bool = True) -> "OwnBody":
        self._plain.running.train(mode)
        return super().train(mode)

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Fresh weights, member i's as the function draws them from a seed out of `generators[i]`."""
        for i, generator in enumerate(generators):
            fresh = made(self.builder, self.given, int(torch.randint(2**62, (), generator=generator)))
            for name, value in _tensors(fresh):
                self._tensor(name)[i].copy_(value)

    @torch.no_grad()
    def unstack(self, member: int) -> nn.Module:
        """The plain module of one member; a copy."""
        plain = copy.deepcopy(self._plain.pristine).train(self.training)
        plain = plain.to(next(iter(self._stacked().values()), torch.empty(0)).device)
        for name, value in _tensors(plain):
            value.copy_(self._tensor(name)[member])
        return plain

    def extra_repr(self) -> str:
        way = "one by one" if self.one_by_one else "vmap"
        return f"{type(self._plain.pristine).__name__} of {self.builder}, {way}"

    @property
    def what(self) -> str:
        """The class of the modules."""
        return type(self._plain.pristine).__name__

    def _with_noise(self, member: int, rows: Tensor, words: Sequence[int]) -> Tensor:
        with seeded_torch(words, rows.device):
            y: Tensor = functional_call(self._plain.pristine, self._of(member), (rows,))
        return y

    def _tensor(self, name: str) -> Tensor:
        own = self._names[name]
        return self.weights[own] if own in self.weights else self.get_buffer(f"fixed-{own}")

    def _stacked(self) -> dict[str, Tensor]:
        return {name: self._tensor(name) for name in self._names}

    def _of(self, member: int) -> dict[str, Tensor]:
        return {name: tensor[member] for name, tensor in self._stacked().items()}

    def _run(self, x: Tensor, one_by_one: bool) -> Tensor:
        if one_by_one:
            return torch.stack([self._call(self._of(i), x[i]) for i in range(self.members)])
        y: Tensor = torch.vmap(self._call)(self._stacked(), x)
        return y

    def _call(self, own: dict[str, Tensor], rows: Tensor) -> Tensor:
        # Ties are in `own` already, and those of torch leave what vmap made in a layer that has two names.
        y: Tensor = functional_call(self._plain.running, own, (rows,), tie_weights=False)
        return y

    @torch.no_grad()
    def _draws(self) -> bool:
        """Whether it draws random numbers in training, as dropout does, also that of a function or inside a GRU."""
        with torch.random.fork_rng(devices=[]):
            before = torch.random.get_rng_state()
            self._plain.running.train()
            try:
                self._call(self._of(0), torch.zeros(2, *self.given["shape"]))
            except Exception:  # `_failure` gives the reason
                return False
            return not torch.equal(torch.random.get_rng_state(), before)

    @torch.enable_grad()
    def _failure(self, one_by_one: bool) -> Exception | None:
        """What goes wrong in a forward and a backward pass, in evaluation and in training; None if nothing does."""
        x = torch.zeros(self.members, 2, *self.given["shape"])
        try:
            for training in (False,) if self.drops else (False, True):
                self._plain.running.train(training)
                y = self._run(x, one_by_one)
                if y.requires_grad:
                    torch.autograd.grad(y.sum(), list(self.weights.values()), allow_unused=True)
        except Exception as error:  # whatever a layer of the user's raises
            return error
        finally:
            self._plain.running.train(self.training)
        return None


register(LayerKind(OWN, OwnBody, OwnBody, None, lambda layer: {"builder": layer.builder, "given": layer.given}))


class _Plain:
    """A module of one member, which defines what is computed. Its weights are unused: it is not a child of the stack.

    `running` is called, and may keep what its forward pass computes (attention weights, say), which cannot be copied.
    `pristine` is never called: copies are made of it.
    """

    def __init__(self, pristine: nn.Module, name: str) -> None:
        self.pristine, self.name = pristine, name
        try:
            self.running = copy.deepcopy(pristine)
        except Exception as error:  # tensors with a history, as torch.nn.utils.weight_norm has; or locks, files
            raise UsageError(f"{whose(name)} cannot be copied: {first_line(error)}") from error

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Plain":
        again = _Plain(self.pristine, self.name)
        again.running.train(self.running.training)
        return again


def check_layers(network: nn.Module, what: str) -> None:
    """Refuse a body that is a module of the user's own, where something is to be done to the layers inside.

    Raises:
        UsageError: `what` because of it.
    """
    for layer in network.modules():
        if isinstance(layer, OwnBody):
            raise UsageError(
                f"{what}: the body is the module {layer.what} of {layer.builder}, and rlab does not know the layers in "
                "it. Build it as an nn.Sequential of layers, or compress with a distil step first (distil:64x64)."
            )


def first_line(error: Exception) -> str:
    """An error of a module of the user's, its class and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers; what is shared between layers once."""
    return [*module.named_parameters(), *module.named_buffers()]


def _places(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Where the tensors stand: what two layers share under both its names, a layer with two names under its first."""
    for prefix, layer in module.named_modules():
        for name, value in [*layer._parameters.items(), *layer._buffers.items()]:
            if value is not None:
                yield (f"{prefix}.{name}" if prefix else name), value


def _key(name: str) -> str:
    """A name in the plain module without dots, which torch does not allow here; another one for every name."""
    own = name.replace("~", "~0").replace("-", "~1").replace(".", "-")
    return f"~{own}" if hasattr(nn.ParameterDict, own) else own  # `keys`, `values`: taken by the dict itself
