"""Requests that nobody should send: each is refused in one line or answered correctly, and nobody else notices."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlab.compression.export.runtimes import open_exported

sys.path.append(str(Path(__file__).parent))
from attack import Check, attack  # type: ignore[import-not-found, unused-ignore]
from fuzzed import FAMILIES, cases  # type: ignore[import-not-found, unused-ignore]
from reading import Port, Target, judged  # type: ignore[import-not-found, unused-ignore]

VECTOR = Port("obs", "FP32", (4,))
INPUTS = {
    "cartpole": (VECTOR,),
    "arm": (VECTOR,),
    "memory": (VECTOR, Port("state", "FP32", (8,))),
    "pixels": (Port("obs", "UINT8", (8, 9, 3), 0, 255),),
}
CARTPOLE = Target("cartpole", (VECTOR,))
# Two ways of adding up tens of products of float32 numbers differ by less than this share of the largest.
ROUNDING = 1e-4


def fits(file: Path) -> Check:
    """Tells whether actions are those of an exported policy: the best ones, or within rounding of them."""
    runner = open_exported(file, trust=True)

    def check(inputs: Mapping[str, np.ndarray], action: np.ndarray) -> bool:
        own, outputs, *_ = runner.run(*(inputs[name] for name in ("obs", "state") if name in inputs))
        if action.shape != own.shape:
            return False
        if np.issubdtype(own.dtype, np.integer):
            taken = np.take_along_axis(outputs, action.reshape(-1, 1), axis=-1)[:, 0]
            return bool((taken >= outputs.max(-1) - ROUNDING * np.abs(outputs).max(-1)).all())
        return bool(np.allclose(own, action, rtol=ROUNDING, atol=ROUNDING))

    return check


def targets_of(server: Any, policies: Path) -> dict[Target, Check]:
    """The policies, by what the server says of their inputs and outputs."""
    found = {}
    for model, ports in INPUTS.items():
        facts = server.get(f"/v2/models/{model}").json
        told = [(each["name"], each["datatype"], each["shape"]) for each in facts["inputs"]]
        assert told == [(port.name, port.datatype, [-1, *port.shape]) for port in ports]
        outputs = tuple(each["name"] for each in facts["outputs"])
        found[Target(model, ports, outputs)] = fits(policies / f"{model}.onnx")
    return found


def check_unharmed(server: Any, handles: int) -> None:
    """The process is the same, holds no more files or sockets open, and logged no error of its own."""
    assert server.process.poll() is None
    assert server.handles() <= handles + 4
    assert not [line for line in server.log_lines if re.search("Traceback|Exception in ASGI|internal error", line)]


def test_of_300_fuzzed_requests_each_is_refused_in_one_line_or_answered_correctly(server: Any, policies: Path) -> None:
    targets = targets_of(server, policies)
    handles = server.handles()
    found = attack(server.wire, targets, 300)
    assert not found.wrong, "\n".join(found.wrong)
    assert found.answered > 40
    check_unharmed(server, handles)


@pytest.mark.prove
def test_of_50_000_fuzzed_requests_each_is_refused_in_one_line_or_answered_correctly(
    server: Any, policies: Path
) -> None:
    targets = targets_of(server, policies)
    handles = server.handles()
    found = attack(server.wire, targets, 50_000, seed=1)
    print(sorted(found.statuses.items()))
    assert not found.wrong, "\n".join(found.wrong)
    assert found.answered > 5_000
    check_unharmed(server, handles)


def test_the_requests_are_of_every_family_and_the_same_whatever_their_number() -> None:
    some = list(cases([CARTPOLE], 60))
    assert [case.data for _, case in some[:5]] == [case.data for _, case in cases([CARTPOLE], 5)]
    assert len({case.family for _, case in some}) == len(FAMILIES)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ('"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]', "right"),
        ('"shape": [2, 4], "datatype": "FP32", "data": [[1, 2, 3, 4], [5, 6, 7, 8]]', "right"),
        ('"shape": [2, 4], "datatype": "FP32", "data": [[1, 2], [3, 4], [5, 6], [7, 8]]', "either"),
        ('"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, NaN]', "wrong"),
        ('"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 3.5e38]', "wrong"),
        ('"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, true]', "wrong"),
        ('"shape": [1, 4], "datatype": "FP64", "data": [1, 2, 3, 4]', "wrong"),
        ('"shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]', "wrong"),
        ('"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3]', "wrong"),
        ('"shape": [1, 4], "datatype": "FP32", "data": [[1, 2], 3, 4]', "wrong"),
        ('"shape": [1, 4], "datatype": "FP32", "data": ' + "[" * 5000 + "]" * 5000, "wrong"),
        ('"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4], "data": [1, 2, 3, 4]', "either"),
    ],
)
def test_the_second_reading_of_the_protocol_on_tensors_read_by_hand(tensor: str, kind: str) -> None:
    body = '{"inputs": [{"name": "obs", ' + tensor + "}]}"
    assert judged(CARTPOLE, body.encode()).kind == kind
    assert judged(CARTPOLE, body.encode() + b"}").kind == "wrong"
    assert judged(CARTPOLE, b'{"id": 5, ' + body.encode()[1:]).kind == "wrong"
