"""A served policy meets a changed world and learns from what it was asked: CartPole-v1 with a longer pole under
stronger gravity.

The server knows nothing of the change. It reports that observations drift away from those that the policy was judged
on, and records what it is asked, what it answers and what it is told of the outcome. CQL goes on from the served policy
with that recording alone; only where `compare` finds the newcomer better is it published, and the server takes it up
while it is being asked.

    python -m rlab.experiments.online_learning
"""

import http.client
import json
import math
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import rlab
from rlab import api
from rlab.envs import EnvSpec, make_env
from rlab.evaluation.comparison import BETTER
from rlab.experiments.studies import EXPERT_SEED, goal, record, run_folder, say

ENV, CHANGED, NAME = "CartPole-v1", "CartPolePhysics:length=2,gravity=20", "cartpole"
TRAINED: dict[str, Any] = {"experiment": "double_dqn-CartPole-v1-25k"}
POLES = 16  # asked about in one request
LOOK = 8  # steps between two looks at the drift


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is asked, learned and judged."""

    usual: int = 1_000  # steps of every pole in the env that the policy is for, and of the newcomer
    recorded: int = 2_000  # in the changed one
    noise: float = 0.2  # share of those by chance: the policy alone would show one action in each state
    # of CQL; the last two as in the study `offline`
    learned: dict[str, Any] = field(
        default_factory=lambda: {"updates": 10_000, "n_step": 5, "demonstration_weight": 0.1, "eval_every": 0}
    )
    judged: int = 100  # episodes of each side


@dataclass
class Client:
    """Cart-poles whose every step is asked of a server, which is then told what came of it."""

    port: int
    wrappers: tuple[str, ...] = ()
    noise: float = 0.0
    seed: int = 0
    tells: bool = False  # a server that records nothing is told nothing
    asked: int = 0
    versions: list[str] = field(default_factory=list)  # that have answered, in order

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self._chance = np.random.default_rng(self.seed)
        spec = EnvSpec.parse(ENV, wrappers=self.wrappers)
        self._poles = [make_env(spec) for _ in range(POLES)]
        self._obs = np.stack([pole.reset(seed=self.seed + i)[0] for i, pole in enumerate(self._poles)])
        self._returns = np.zeros(POLES)

    def watch(self, steps: int) -> dict[str, Any]:
        """Play so many steps, looking now and then what the server says of drift: the mean return of the episodes that
        ended, how many requests it took until it said so, and the features that it named."""
        returns, named, after = [], set[str](), None
        for played in range(LOOK, steps + 1, LOOK):
            returns += self.play(LOOK)
            named |= set(self.drifting())
            after = played if named and after is None else after
        mean = float(np.mean(returns)) if returns else None
        return {"return": mean, "requests_until_drift": after, "drift": sorted(named)}

    def play(self, steps: int) -> list[float]:
        """So many steps of every pole; the returns of the episodes that ended."""
        ended: list[float] = []
        for _ in range(steps):
            id, actions = self._ask()
            outcomes = [pole.step(int(action)) for pole, action in zip(self._poles, actions, strict=True)]
            obs, reward, terminated, truncated = (list(part) for part in list(zip(*outcomes, strict=True))[:4])
            self._returns += reward
            over = [i for i in range(POLES) if terminated[i] or truncated[i]]
            if self.tells:
                what = {"reward": reward, "terminated": terminated, "truncated": truncated, "action": actions.tolist()}
                last = {"next_obs": [obs[i].tolist() for i in over]} if over else {}
                self.post("feedback", {"feedback": [{"id": id, **what, **last}]})
            for i in over:
                ended.append(float(self._returns[i]))
                self._returns[i], (obs[i], _) = 0.0, self._poles[i].reset()
            self._obs = np.stack(obs)
        return ended

    def _ask(self) -> tuple[str, np.ndarray]:
        """The id of a request, and what the poles do."""
        self.asked += 1
        id = f"{self.seed}-{self.asked}"
        data = {"name": "obs", "shape": [POLES, 4], "datatype": "FP32", "data": self._obs.ravel().tolist()}
        request = {
            "id": id,
            "parameters": {"sequence_id": f"poles-{self.seed}"},
            "inputs": [data],
        }
        answer = self.post("infer", request)
        if answer["model_version"] not in self.versions[-1:]:
            self.versions.append(answer["model_version"])
        actions = np.array(answer["outputs"][0]["data"])
        by_chance = self._chance.random(POLES) < self.noise
        return id, np.where(by_chance, self._chance.integers(2, size=POLES), actions)

    def until_answered_by(self, version: str, steps: int = 2_000) -> None:
        """Play on until that version answers; raises RuntimeError where it does not within so many steps."""
        self._connection.close()  # the next request opens it again: the server has closed what was silent for a minute
        for _ in range(steps):
            self.play(1)
            if self.versions[-1] == version:
                return
            time.sleep(0.01)  # the server looks at the registry once a second
        raise RuntimeError(f"version {version} has not answered within {steps} steps")

    def drifting(self) -> list[str]:
        """The features that the server says drift, in the version that answered last."""
        (model,) = self._answer("GET", "/status")["models"]
        return [each["name"] for each in model["drift"]["features"] if each["drifting"]]

    def post(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request about the model."""
        return self._answer("POST", f"/v2/models/{NAME}/{verb}", json.dumps(body))

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
        for pole in self._poles:
            pole.close()

    def _answer(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        """Every request must have an answer; raises RuntimeError where it is refused."""
        self._connection.request(method, path, body)
        response = self._connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {answer}")
        return answer


def study(first: Path, folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Close the loop once.

    Args:
        first: the policy that is served in the beginning.
        folder: an empty one, for the registry, the recording and the newcomer.
    """
    models, recordings = folder / "models", folder / "recordings"
    served = rlab.publish(first, NAME, alias="best", models=models)
    with rlab.serve(f"{NAME}@best", models=models) as server, closing(Client(server.port)) as usual:
        found: dict[str, Any] = {"usual": usual.watch(sizes.usual)}
    say(f"asked about {ENV}: {found['usual']}")
    with (
        rlab.serve(f"{NAME}@best", models=models, record=recordings) as server,
        closing(Client(server.port, (CHANGED,), sizes.noise, seed=1, tells=True)) as client,
    ):
        found["changed"] = client.watch(sizes.recorded)
        say(f"asked about {CHANGED}: {found['changed']}")
        data = api.merge_datasets([recordings], folder / "data")
        say(data.report())
        learned = {"agent": "cql", "dataset": str(data.path), "wrappers": [CHANGED], **sizes.learned}
        newcomer = rlab.finetune(served, ENV, out=folder / "newcomer", **learned)
        sides = {"newcomer": newcomer.path}, {"served": served.path}
        compared = rlab.compare(*sides, episodes=sizes.judged, wrappers=[CHANGED])
        say(compared.summary())
        (pair,) = compared.pairs
        if pair.verdict == BETTER:
            published = rlab.publish(newcomer, NAME, alias="best", models=models)
            client.until_answered_by(str(published.version.version))
            with closing(Client(server.port, (CHANGED,), seed=2, tells=True)) as other:
                found["newcomer"] = other.watch(sizes.usual)
            say(f"asked about {CHANGED} again, by others: {found['newcomer']}")
    recorded = data.dataset.facts["joined"][0]["recorded"]
    return {**found, "recorded": recorded, "compared": pair.to_json(), "versions": client.versions}


def main() -> None:
    """Train, close the loop, record what came of it."""
    sizes = Sizes()
    first = rlab.train("double_dqn", ENV, out=run_folder("online-first"), seed=EXPERT_SEED, **TRAINED)
    folder = run_folder("online-learning")
    folder.mkdir()
    found = study(first.path, folder, sizes)
    after = found["changed"]["requests_until_drift"] or math.inf
    goals = [
        goal("features that drift in the env that the policy is for", len(found["usual"]["drift"]), at_most=0),
        goal("requests until drift is told in the changed one", after, at_most=1_000),
        goal("return of the newcomer less that of the served: lower end", found["compared"]["difference"]["low"], 0),
        goal("versions that have answered one client", len(found["versions"]), at_least=2),
    ]
    facts = {"env": ENV, "changed_by": CHANGED, "sizes": asdict(sizes), "goals": goals}
    record("online_learning", {**facts, "results": found})


if __name__ == "__main__":
    main()
