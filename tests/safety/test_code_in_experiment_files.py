"""Code that an experiment file names runs with --trust alone, in every verb that reads such files."""

import re
import sys
from pathlib import Path

import pytest

from rlab.cli.main import main

NAMES = {
    "agent": ('agent = "ppo"', 'agent = "planted:Agent"'),
    "env": ('env = "CartPole-v1"', 'env = "planted:Env-v0"'),
    "wrapper": ('env = "CartPole-v1"', 'env = "CartPole-v1"\nwrapper = ["planted:Wrapper:depth=2"]'),
    "network": ("[settings]", '[settings]\nnetwork = "planted:body"'),
}


@pytest.fixture
def sent(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module whose code stops the test, and an experiment file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "planted.py").write_text("open('ran', 'w').close()\n")
    (tmp_path / "sent.toml").write_text((good / "ours.toml").read_text())
    return tmp_path / "sent.toml"


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize("verb", ["train", "finetune", "bench"])
def test_what_an_experiment_file_names_does_not_run(
    sent: Path, good: Path, capsys: pytest.CaptureFixture[str], verb: str, what: str
) -> None:
    sent.write_text(sent.read_text().replace(*NAMES[what]))
    source = ["ppo", "CartPole-v1"] if verb == "train" else [str(good / "run")]
    words = ["bench", "sent.toml"] if verb == "bench" else [verb, *source, "--experiment", "sent.toml"]
    assert main(words) == 1
    line = "rlab: sent.toml names planted, which is code from outside rlab; add --trust"
    assert capsys.readouterr().err.startswith(line)
    assert not (sent.parent / "ran").exists()
    if verb == "bench":
        assert main([*words, "--trust"]) in (1, 2)  # it runs, and is none of the things that it says it is
        sys.modules.pop("planted", None)
        assert (sent.parent / "ran").exists()


def test_a_module_that_the_user_names_too_is_trusted_with_it(sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sent.parent / "named.py").write_text("from rlab.agents.ppo import PPO\n")
    sent.write_text(sent.read_text().replace('"ppo"', '"named:PPO"'))
    assert main(["train", "named:PPO", "CartPole-v1", "--experiment", "sent.toml", "--final-eval-episodes", "1"]) == 0
    assert main(["bench", "sent.toml"]) == 1
    assert re.search("names named, which is code", capsys.readouterr().err)
