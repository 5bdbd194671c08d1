"""What `rlab serve` is measured against: the same file behind FastAPI on uvicorn, written as FastAPI's tutorial does.

python -m rlab.experiments.benchmarks.fastapi_server POLICY.onnx PORT WORKERS
"""

import os
import sys
from typing import Any

import numpy as np

FILE = "RLAB_BENCHMARK_FILE"  # in the environment, which uvicorn's workers get


def app() -> Any:
    """The application, of the file that the environment names."""
    import onnxruntime
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Tensor(BaseModel):
        name: str
        shape: list[int]
        datatype: str
        data: list[float]

    class InferRequest(BaseModel):
        id: str = ""
        inputs: list[Tensor]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.environ[FILE], options, providers=["CPUExecutionProvider"])
    found = FastAPI()

    async def infer(request: InferRequest) -> dict[str, Any]:
        (tensor,) = request.inputs
        obs = np.array(tensor.data, np.float32).reshape(tensor.shape)
        (action,) = session.run(["action"], {"obs": obs})
        output = {"name": "action", "datatype": "INT64", "shape": list(action.shape), "data": action.tolist()}
        return {"model_name": "policy", "model_version": "1", "id": request.id, "outputs": [output]}

    found.add_api_route("/v2/models/policy/infer", infer, methods=["POST"])
    found.add_api_route("/v2/health/ready", lambda: {"ready": True}, methods=["GET"])
    return found


def main() -> None:
    """Serve until SIGTERM."""
    import uvicorn

    file, port, workers = sys.argv[1:]
    os.environ[FILE] = file
    uvicorn.run(
        f"{__name__ if __name__ != '__main__' else 'rlab.experiments.benchmarks.fastapi_server'}:app",
        factory=True,
        port=int(port),
        workers=int(workers),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
