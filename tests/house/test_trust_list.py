"""The list of trusted modules that a project keeps: who may write it, what it covers, and that every verb reads it."""

import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.envs.specs import named_here
from rlab.errors import RlabError, UsageError
from rlab.trust import FILE, in_force, read_list, trusts

pytestmark = pytest.mark.usefixtures("quick_disk")
TINY = {"env_steps": 16, "num_envs": 2, "rollout_steps": 4, "minibatches": 1, "hidden": (4,), "experiment": "none"}
TINY |= {"eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 1}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def message(capsys):
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("trust", "module", "covered"),
    [
        (True, "anything", True),
        (False, "my_envs", False),
        ("my_envs", "my_envs", True),
        ("my_envs", "my_envs.grids", True),
        (["my_envs.grids"], "my_envs", False),
        (["other", "my_envs"], "my_envs_of_others", False),
        ((), "my_envs", False),
    ],
)
def test_a_name_covers_a_module_and_what_is_inside_it(trust, module, covered):
    assert trusts(trust, module) is covered


def test_the_list_is_shown_added_to_and_taken_from(project, capsys):
    assert main(["trust"]) == 0
    assert "no module is trusted" in capsys.readouterr().out
    assert main(["trust", "json", "my_envs.grids:Grid", "json"]) == 0
    out, err = capsys.readouterr()
    assert out == "trusted in this folder (.rlab-trust): json, my_envs.grids\n"
    assert "no module my_envs.grids is found" in err
    (project / "my_module_here.py").write_text("raise SystemExit('this has run')\n")
    assert main(["trust", "my_module_here"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["trust", "my_module_here", "--remove"]) == 0
    capsys.readouterr()
    (project / FILE).write_text((project / FILE).read_text() + "\nother  # of a colleague\n")
    assert main(["trust", "my_envs.grids", "--remove", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modules"] == ["json", "other"]
    assert read_list(project) == ("json", "other")
    for words, line in {
        ("nope", "--remove"): "nope is not on the list; it has: json, other",
        ("--remove",): "--remove needs the modules",
        ("my envs",): "'my envs' is not the name of a module",
    }.items():
        assert main(["trust", *words]) == 2
        assert line in message(capsys)
    (project / FILE).write_text("rm -rf /\n")
    with pytest.raises(UsageError, match="'rm -rf /' is not the name of a module"):
        in_force(False)


def test_a_list_that_others_could_have_put_there_counts_for_nothing(project, capsys):
    (project / FILE).write_text("my_envs\n")
    (project / FILE).chmod(0o644)
    assert in_force(False) == {"my_envs"}
    (project / FILE).chmod(0o646)
    assert in_force(False) == frozenset()
    assert main(["trust", "other"]) == 2
    assert "every user may write it; chmod o-w .rlab-trust" in message(capsys)
    (project / FILE).rename(project / "elsewhere")
    (project / "elsewhere").chmod(0o644)
    (project / FILE).symlink_to("elsewhere")
    assert in_force(["x"]) == {"x"}
    (project / FILE).unlink()
    (project / FILE).mkdir()
    assert in_force(False) == frozenset()


@pytest.mark.parametrize("place", [".", "sub", "policy"])
def test_a_list_that_came_with_a_run_counts_for_nothing(project, capsys, monkeypatch, place):
    (project / place).mkdir(exist_ok=True)
    for name in ("config.json", "manifest.json"):
        (project / name).write_text("{}")
    (project / place / FILE).write_text("my_envs\n")
    monkeypatch.chdir(project / place)
    assert in_force(False) == frozenset()
    assert main(["trust", "my_envs"]) == 2
    assert "is a run, a policy or a dataset, and may have brought it" in message(capsys)


def test_a_listed_module_needs_no_trust_in_any_verb_nor_from_python(project, capsys, monkeypatch, road):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert main(["train", "ppo", "own_envs:Walk", "--out", "run", *road.flags(**TINY)]) == 0
    (project / "run" / "result.json").unlink()  # as if it had been stopped before it was judged
    named_here.clear()
    words = {
        "eval": ["run", "--episodes", "2"],
        "collect": ["run", "--out", "data", "--episodes", "2"],
        "finetune": ["run", "--out", "tuned", *road.flags(**{k: v for k, v in TINY.items() if k != "hidden"})],
        "play": ["run", "--video", "play.gif"],
        "resume": ["run"],
    }
    capsys.readouterr()
    try:
        for verb, rest in words.items():
            assert main([verb, *rest]) == 1
            line = message(capsys)
            assert "names own_envs, which is code from outside rlab" in line
            assert "add --trust (in Python trust=True) if you trust it, or name it once" in line
            assert line.rstrip().endswith("for this folder: rlab trust own_envs.")
        with pytest.raises(RlabError, match="rlab trust own_envs"):
            rlab.evaluate("run", episodes=2)
        assert rlab.evaluate("run", episodes=2, trust="own_envs").returns.shape == (1, 2)
        assert main(["trust", "own_envs"]) == 0
        assert rlab.evaluate("run", episodes=2).returns.shape == (1, 2)
        for verb, rest in words.items():
            assert main([verb, *rest]) == 0, capsys.readouterr().err
        assert main(["pretrain", "bc", "data", "--updates", "2", "--final-eval-episodes", "1", "--out", "cloned"]) == 0
        assert rlab.load("run")(np.zeros(1, np.float32)) in (0, 1)
    finally:
        named_here.clear()
        sys.modules.pop("own_envs", None)
        gym.registry.pop("OwnWalk-v0", None)
