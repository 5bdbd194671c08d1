"""Files that torch writes: `.pt2` by `torch.export`, and ONNX by `torch.onnx` for layers that we have no words for."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlab import door
from rlab.compression.export.graph import ACTION, NEXT_STATE, OBS, OUTPUTS, STATE
from rlab.compression.export.member_step import as_row, decision, from_row, parts_of, state_size
from rlab.compression.export.onnx_writer import METADATA, OPSET, require_onnx
from rlab.errors import RlabError, UsageError, pip_install
from rlab.networks.policy import MemberPolicy

EXTRA = "rlab.json"  # the file inside a .pt2 that holds the metadata


class Exportable(nn.Module):
    """A member's greedy decision as one function of the observations `[B, *obs]`, with memory also of the state
    `[B, K]`: to actions, outputs and, with memory, the next state."""

    def __init__(self, member: MemberPolicy) -> None:
        super().__init__()
        self.member, self.parts = member, parts_of(member)

    def forward(self, obs: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        member = self.member
        outputs, after = member.step(obs, {} if state is None else from_row(state, self.parts))
        given = decision(member, obs, outputs), outputs
        return given if state is None else (*given, as_row(after))


def write_torch_export(member: MemberPolicy, obs: np.ndarray, metadata: str) -> bytes:
    """The content of a `.pt2` with a dynamic batch; `obs [R, *obs]` are examples.

    Raises:
        UsageError: torch.export cannot follow a layer.
    """
    program = _program(member, obs)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # the author's absolute paths
    program.example_inputs = None  # the file needs none
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={EXTRA: metadata})
    return content.getvalue()


def load_program(path: Path) -> Callable[..., tuple[Tensor, ...]]:
    """The function in a `.pt2`. This can run code: torch unpickles parts of the file, and has sympy evaluate others.

    Raises:
        RlabError: the file is damaged.
    """
    try:
        content = io.BytesIO(door.read_file(path, follow=True))
        with _quiet():  # torch 2.11 warns that it reads its own buffers
            module: Callable[..., tuple[Tensor, ...]] = torch.export.load(content).module()
    except Exception as error:  # of a damaged file, each part fails in its own way
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RlabError(f"{path} is not a complete .pt2 file of this torch ({reason}). Was it damaged?") from error
    return module


def read_metadata(path: Path) -> bytes:
    """The metadata of a `.pt2`, without running anything in it.

    Raises:
        RlabError: the file is damaged or none of rlab's.
    """
    return door.read_zip_part(path, f"extra/{EXTRA}")


def write_torch_onnx(member: MemberPolicy, obs: np.ndarray, metadata: str) -> bytes:
    """The content of an ONNX file by `torch.onnx.export`; it knows most layers, and takes seconds.

    Raises:
        UsageError: a package is missing, or torch.onnx cannot express a layer.
    """
    onnx = require_onnx()
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError(f"torch.onnx needs the package onnxscript: {pip_install('onnx')}") from None
    program = _program(member, obs)
    with _quiet():
        try:
            exported = torch.onnx.export(
                program, dynamo=True, external_data=False, verbose=False, opset_version=OPSET[0]
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UsageError(f"torch.onnx cannot express this network: {reason}") from error
        assert exported is not None
        model = exported.model_proto
    _rename(model.graph)
    _scrub(model)
    onnx.helper.set_model_props(model, {METADATA: metadata})
    written: bytes = model.SerializeToString()
    return written


def _program(member: MemberPolicy, obs: np.ndarray) -> torch.export.ExportedProgram:
    # Two rows: torch takes an axis of length 1 for one that is always so.
    examples: tuple[Tensor, ...] = (torch.from_numpy(np.array(obs[:2])),)
    batch = torch.export.Dim("batch")
    shapes = {OBS: {0: batch}}
    if size := state_size(member):
        examples, shapes = (*examples, torch.zeros(2, size)), {**shapes, STATE: {0: batch}}
    try:
        return torch.export.export(Exportable(member).eval(), examples, dynamic_shapes=shapes)
    except Exception as error:  # a foreign layer may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"torch.export cannot follow this network: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's messages about its internals, such as optional packages and deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _rename(graph: Any) -> None:
    """Our names for what goes in and comes out."""
    new = dict(zip((port.name for port in graph.input), (OBS, STATE), strict=False))
    new |= dict(zip((port.name for port in graph.output), (ACTION, OUTPUTS, NEXT_STATE), strict=False))
    for port in (*graph.input, *graph.output):
        port.name = new[port.name]
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]


def _scrub(model: Any) -> None:
    """Drop what torch notes about the code that the network was made by, its absolute paths among it."""
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.value_info, *model.graph.input):
        part.doc_string = ""
        del part.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
