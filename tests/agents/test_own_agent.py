"""An agent of somebody else's, by `their.module:Class`, lives the same life as a registered one."""

from pathlib import Path

import numpy as np
import pytest
import torch

import rlab
from rlab.cli.main import main
from rlab.errors import UsageError

NAME = "own_agent:ExpectedSarsa"


@pytest.fixture(autouse=True)
def _in_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def test_it_is_trained_judged_loaded_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    run = rlab.train(NAME, "CartPole-v1", seeds=2, env_steps=800, final_eval_episodes=5, eval_every=400, out=out)
    assert run.evaluation is not None
    assert run.evaluation.returns.shape == (2, 5)
    policy = rlab.load(out, seed=1)  # no trust needed: its layers are rlab's own
    assert policy(np.zeros(4, np.float32)) in (0, 1)
    assert main(["eval", str(out), "--episodes", "3"]) == 0
    assert "own_agent" in (out / "config.json").read_text()
    (out / "result.json").unlink()  # as if it had been stopped before it was judged
    assert main(["resume", str(out)]) == 1  # its config names someone's code
    assert "add --trust" in capsys.readouterr().err
    assert main(["resume", str(out), "--trust"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_it_learns_the_values_known_on_paper(tmp_path: Path) -> None:
    settings = {"gamma": 0.9, "seeds": 3, "env_steps": 4000, "epsilon": 0.1, "eval_every": 4000}
    run = rlab.train(NAME, "rlab/ProbeCredit-v0", out=tmp_path / "run", final_eval_episodes=5, **settings)
    assert run.evaluation is not None
    assert (run.evaluation.returns == 1.0).all()
    for seed in range(3):
        q = run.policy(seed).outputs(torch.tensor([[0.0], [-1.0], [1.0]]))
        expected = torch.tensor([[-0.9, 0.9], [-1.0, -1.0], [1.0, 1.0]])
        torch.testing.assert_close(q, expected, rtol=0, atol=0.05)


def test_its_next_value_is_the_mean_over_its_choices() -> None:
    from own_agent import ExpectedSarsa, ExpectedSarsaConfig  # type: ignore[import-not-found]

    from rlab.networks.spaces import Box, Discrete

    box = Box((1,), "float32", -1.0, 1.0)
    agent = ExpectedSarsa(ExpectedSarsaConfig(epsilon=0.4), box, Discrete(2), (0,), torch.device("cpu"))
    assert agent.next_value(torch.tensor([[[1.0, 5.0]]])).tolist() == [[pytest.approx(0.6 * 5 + 0.4 * 3)]]


def test_its_settings_are_flags_with_suggestions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"unknown setting epsilom\. Did you mean epsilon\?"):
        rlab.train(NAME, "CartPole-v1", epsilom=0.1, out=tmp_path / "run")
    assert main(["train", NAME, "CartPole-v1", "--epsilon", "7"]) == 2
    assert "epsilon 7.0 must be in [0, 1]." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_env_that_does_not_suit_it_gets_its_own_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ExpectedSarsa cannot choose the actions Box"):
        rlab.train(NAME, "Pendulum-v1", out=tmp_path / "run")


def test_a_rollout_agent_with_a_sampler_of_another_kind_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "from rlab.agents.a2c import A2C",
        "from rlab.experience.samplers import UniformSampler",
        "class Wrong(A2C):",
        "    def sampler(self, storage, draws):",
        "        return UniformSampler(storage, draws)",
    ]
    (tmp_path / "draws_rows.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["train", "draws_rows:Wrong", "CartPole-v1", "--out", str(tmp_path / "run")]) == 2
    said = "rlab: Wrong learns from rollouts, so its sampler must be a RolloutSampler, not a UniformSampler."
    assert capsys.readouterr().err.splitlines() == [said]
    assert not (tmp_path / "run").exists()
