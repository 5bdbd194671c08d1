"""Served actions have the bits of the exported file, whoever else asks at the same time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlab.compression.export.member_file import export
from rlab.compression.export.runtimes import open_exported
from rlab.networks.policy import MemberPolicy

ROWS = 10_000
CONNECTIONS = 6


@pytest.mark.parametrize("model", ["cartpole", "arm"])
def test_ten_thousand_observations_in_mixed_batches_get_the_bits_of_the_file(
    model: str,
    server: Any,
    member: Callable[..., MemberPolicy],
    input_tensor: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(ROWS, 4)).astype(np.float32)
    file = tmp_path / "policy.onnx"
    export(member(model), obs[:1000], "onnx", file)
    alone = open_exported(file, trust=True)
    expected = [alone.run(obs[i : i + 1]) for i in range(ROWS)]
    wires = [server.wire() for _ in range(CONNECTIONS)]
    first = 0
    while first < ROWS:  # requests of 1 to 9 rows, as many at once as there are connections
        parts = []
        for wire in wires:
            last = min(first + int(rng.integers(1, 10)), ROWS)
            if last == first:
                break
            inputs, outputs = [input_tensor("obs", obs[first:last])], [{"name": "action"}, {"name": "outputs"}]
            body = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
            head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            wire.send(head.encode() + body)
            parts.append((wire, first, last))
            first = last
        for wire, begin, end in parts:
            answer = wire.answer()
            assert answer.status == 200, answer
            for place, output in enumerate(answer.json["outputs"]):
                wanted = np.concatenate([expected[row][place] for row in range(begin, end)])
                found = np.array(output["data"], wanted.dtype).reshape(output["shape"])
                assert found.tobytes() == wanted.tobytes()
    for wire in wires:
        wire.close()


def test_a_runtime_whose_bits_depend_on_the_batch_computes_row_by_row(
    member: Callable[..., MemberPolicy], tmp_path: Path
) -> None:
    from rlab.serving.models import open_models, place_of

    obs = np.random.default_rng(1).normal(size=(1000, 4)).astype(np.float32)
    export(member("arm"), obs, "numpy", tmp_path / "policy.npz")
    (model,) = open_models([place_of(str(tmp_path / "policy.npz"))], trust=True)
    alone = np.concatenate([model.runner.run(obs[i : i + 1])[0] for i in range(64)])
    if not model.batches_exactly:  # as BLAS does on most machines
        assert model.run(obs[:64])[0].tobytes() == alone.tobytes()

    class Sums:
        """A runtime that adds the batch's mean."""

        obs_space, state_size = model.runner.obs_space, 0

        def run(self, obs: np.ndarray) -> tuple[np.ndarray, ...]:
            return obs[:, 0], (obs + obs.mean(axis=0)).astype(np.float32)

    from rlab.serving.models import _tried

    exactly, seconds = _tried(Sums())
    assert not exactly
    assert seconds < 1
