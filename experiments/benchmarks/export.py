"""What an exported file costs: bytes, microseconds of a decision, milliseconds of writing it, and how exact it is.

Three Q networks: MLPs 64-64 and 256-256 on CartPole-v1, and the Nature CNN on made frames of 84x84x4. They are not
trained, since neither bytes nor time depend on what weights say. Measured, the two sides of each ratio in turn:

- weights-only int8 against fp32, as ONNX files in onnxruntime: bytes, and one call with a batch of 1 and of 64
- one call of the fp32 file with a batch of 1 against torch eager, both in one process, observation to action
- rlab's own ONNX writer against torch.onnx, fp32
- the largest error of an output on 2 000 visited states: fp32 ONNX and C against torch as a share of the largest
  output; int8 in steps of 1/255 of the outputs' range, against the rounded policy in torch

C is left out for the CNN, whose header would be some 25 MB of text. Where the machine has other work besides, ratios
say more than microseconds do: `load` is how many processes wanted a core when it began.

    python -m rlab.experiments.benchmarks.export
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import rlab
from rlab.experiments.benchmarks.timing import ROUNDS, ratio, record

FRAMES = "Frames-v0"
MODULE = "rlab.experiments.benchmarks.export"  # whatever it runs as, so that another process finds the env too
NETWORKS: dict[str, dict[str, Any]] = {
    "64-64": {"env": "CartPole-v1", "hidden": (64, 64)},
    "256-256": {"env": "CartPole-v1", "hidden": (256, 256)},
    "nature-cnn": {"env": f"{MODULE}:{FRAMES}"},
}


class Frames(gym.Env[np.ndarray, int]):
    """Frames of noise, each episode 20 of them."""

    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space: gym.spaces.Discrete = gym.spaces.Discrete(4)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Any frame."""
        super().reset(seed=seed)
        self._left = 20
        return self._frame(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Any frame, reward 1."""
        self._left -= 1
        return self._frame(), 1.0, self._left == 0, False, {}

    def _frame(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (84, 84, 4), np.uint8)


if FRAMES not in gym.registry:
    gym.register(FRAMES, f"{MODULE}:Frames")


def untrained(folder: Path, env: str, **settings: Any) -> Path:
    """A run folder with a fresh double DQN policy."""
    rlab.train(
        "double_dqn",
        env,
        experiment="none",
        out=folder,
        trust=True,
        env_steps=64,
        learning_starts=1_000,
        replay_capacity=100,
        num_envs=1,
        eval_episodes=1,
        final_eval_episodes=0,
        device="cpu",
        **settings,
    )
    return folder


def rounded(run: Path, step: str) -> Path:
    """The policy of the run behind one step of compression; how well it plays is of no interest here."""
    done = rlab.compress(run, step, out=run.parent / step, episodes=2, min_return_ratio=0.0, updates=1, trust=True)
    return done.path


def exported(policy: Path, format: str = "onnx", exporter: str = "auto") -> Any:
    """The first member of a policy as a file that is new each time."""
    suffix = {"onnx": ".onnx", "c": ".h"}[format]
    name = f"{policy.name}-{len(list(policy.parent.iterdir()))}{suffix}"
    return rlab.export(policy, format, out=policy.parent / name, exporter=exporter, trust=True)


def call_us(files: list[Path]) -> dict[int, list[float]]:
    """Median microseconds of a call of each file, by size of batch; files in turn, in a process of its own."""
    words = [sys.executable, "-m", "rlab", "eval", *map(str, files), "--latency", "--trust", "--json"]
    root = str(Path(__file__).resolve().parents[2])  # the checkout; harmless where rlab is installed
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(words, check=True, capture_output=True, env=environment)
    found = json.loads(done.stdout)["files"]
    batches = [each["batch"] for each in found[str(files[0])]]
    return {batch: [found[str(file)][i]["p50_us"] for file in files] for i, batch in enumerate(batches)}


def share(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """The first of each pair as a share of the second."""
    return ratio([a for a, _ in pairs], [b for _, b in pairs])


def steps_off(parity: Any) -> float:
    """The largest error in steps of 1/255 of the outputs' range, taken as twice the largest output."""
    return float(parity.largest_error / (2 * parity.output_scale / 255))


def measure(name: str, folder: Path) -> dict[str, Any]:
    """All that is recorded of one network."""
    run = untrained(folder / "run", **NETWORKS[name])
    int8, static8 = rounded(run, "int8"), rounded(run, "static8")
    exported(run, exporter="torch")  # imports what torch.onnx needs
    floats, foreign = [], []
    for _ in range(ROUNDS):
        floats.append(exported(run, exporter="own"))
        foreign.append(exported(run, exporter="torch"))
    small, static = exported(int8), exported(static8)
    calls = [call_us([small.path, floats[0].path]) for _ in range(ROUNDS)]
    errors = {
        "fp32_onnx": floats[0].exported.parity.relative_error,
        "int8_weights_onnx_in_steps": steps_off(small.exported.parity),
        "static8_onnx_in_steps": steps_off(static.exported.parity),
    }
    if "hidden" in NETWORKS[name]:
        errors["fp32_c"] = exported(run, "c").exported.parity.relative_error
    return {
        "bytes": {"fp32": floats[0].exported.bytes, "int8": small.exported.bytes, "torch": foreign[0].exported.bytes},
        "int8_share_of_fp32_bytes": small.exported.bytes / floats[0].exported.bytes,
        "int8_share_of_fp32_time": {batch: share([(c[batch][0], c[batch][1]) for c in calls]) for batch in calls[0]},
        "file_share_of_torch_time_batch_1": share([(f.latency[0].p50_us, f.torch_latency[0].p50_us) for f in floats]),
        "own_share_of_torch_exporter_time": share(
            [(own.exported.seconds, torch.exported.seconds) for own, torch in zip(floats, foreign, strict=True)]
        ),
        "largest_error": errors,
    }


def main() -> None:
    """Measure, print, record."""
    load, found = os.getloadavg()[0], {}
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(name, Path(folder))
        told = found[name]
        times = told["int8_share_of_fp32_time"]
        print(
            f"{name}: int8 takes {told['int8_share_of_fp32_bytes']:.3f} of the bytes of fp32, "
            f"{times[1]['median']:.2f} of its time at batch 1 and {times[64]['median']:.2f} at 64; one decision "
            f"{told['file_share_of_torch_time_batch_1']['median']:.2f} of torch eager's; the writer takes "
            f"{told['own_share_of_torch_exporter_time']['median']:.4f} of torch.onnx's time; errors "
            + ", ".join(f"{what} {error:.2g}" for what, error in told["largest_error"].items())
        )
    record(__file__, {"load": load, "rounds": ROUNDS, "networks": found})


if __name__ == "__main__":
    main()
