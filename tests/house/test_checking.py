"""`rlab check`: each broken env has exactly its finding, a sound env none, and nobody's own envs a false alarm."""

import json
import os
import random
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.envs import PROBES, list_envs
from rlab.envs.specs import named_here
from rlab.errors import UsageError

sys.path.append(str(Path(__file__).parent))
import broken_envs

STEPS = 20
OURS = ("CartPole-v1", "MountainCarContinuous-v0", "Pendulum-v1", "Acrobot-v1", "FrozenLake-v1", "Taxi-v3", "Taxi-v4")
BOX2D = ("LunarLander-v3", "BipedalWalker-v3")
MINIGRID = ("MiniGrid-Empty-5x5-v0", "MiniGrid-DoorKey-5x5-v0")


def findings(checkup):
    """All but that no time limit is known, which is so of each env here."""
    return [finding for finding in checkup.findings if finding.code != "no-time-limit"]


def alarms(checkup):
    return {finding.code for finding in checkup.findings if finding.severity != "note"}


@pytest.mark.parametrize("broken", list(broken_envs.EXPECTED), ids=lambda broken: broken.__name__)
def test_a_broken_env_has_exactly_its_finding(broken):
    code, severity = broken_envs.EXPECTED[broken]
    found = rlab.check(broken, steps=STEPS)
    (finding,) = findings(found)
    assert (finding.code, finding.severity) == (code, severity), found.report()
    assert finding.what
    assert finding.fix
    assert "\n" not in finding.line()
    assert found.ok is (severity != "error")


def test_a_sound_env_has_no_finding_and_says_what_was_seen_and_who_can_learn():
    found = rlab.check(broken_envs.Sound, steps=STEPS)
    assert findings(found) == []
    assert (found.facts["steps"], found.facts["episodes"], found.facts["lengths"]) == (20, 4, [5, 5])
    assert found.agents is not None
    assert {"ppo", "dqn", "bc"} <= set(found.agents)
    assert "ready to train in (1 note)" in found.report()
    limited = rlab.check(broken_envs.Sound, steps=STEPS, max_episode_steps=9)
    assert "ready to train in (nothing found)" in limited.report()
    assert str(limited) == limited.report()
    assert repr(limited) == "<Checkup of broken_envs:Sound: ok, nothing found>"
    continuous = rlab.check(broken_envs.WritesIntoAction, steps=STEPS)
    assert "ppo" in continuous.agents
    assert "dqn" not in continuous.agents


def test_several_faults_are_found_at_once():
    class Bad(broken_envs.RewardLarge, broken_envs.GlobalNumpy, broken_envs.CloseRaises, broken_envs.Prints): ...

    found = rlab.check(Bad, steps=STEPS)
    codes = [finding.code for finding in findings(found)]
    assert set(codes) == {"reward-large", "global-random", "close", "prints", "no-name"}
    assert codes[-2:] == ["prints", "no-name"]  # notes come last


def test_checking_leaves_the_process_as_it_was(capsys):
    random.seed(1)
    np.random.seed(1)  # the global one is what the env takes
    before, here = (random.getstate(), np.random.get_state()[1].tolist()), os.getcwd()
    for each in (broken_envs.GlobalNumpy, broken_envs.GlobalRandom, broken_envs.ChangesFolder, broken_envs.Prints):
        rlab.check(each, steps=STEPS)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert os.getcwd() == here
    assert capsys.readouterr().out == ""


def test_the_exit_code_says_whether_training_would_fail(capsys):
    words = ["--steps", "40"]
    assert main(["check", "broken_envs:Sound", *words]) == 0
    assert "broken_envs:Sound: ready to train in (1 note)" in capsys.readouterr().out
    assert main(["check", "broken_envs:RewardLarge", *words]) == 0
    assert "warning  reward-large: rewards reach 1e+05 in size; divide them in the env" in capsys.readouterr().out
    assert main(["check", "broken_envs:FourValues", *words, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], [finding["code"] for finding in told["findings"]]) == (False, ["step"])
    assert main(["check", "broken_envs:Needy", "--env-kwargs", "size=3", *words]) == 0
    assert main(["check", "broken_envs:Endless", "--max-episode-steps", "9", *words]) == 0
    assert "9 steps" in capsys.readouterr().out
    assert main(["check", "broken_envs:Nope"]) == 2
    named_here.clear()


def test_keywords_that_no_run_can_keep_are_a_finding():
    found = rlab.check(broken_envs.Needy, env_kwargs={"size": object()})
    assert [finding.code for finding in found.findings] == ["keywords"]
    with pytest.raises(UsageError, match="lambda: Sound"):
        rlab.check(broken_envs.Sound())


def checked(env_id, wrappers=(), steps=100):
    found = rlab.check(env_id, steps=steps, wrappers=wrappers)
    assert alarms(found) == set(), found.report()


@pytest.mark.parametrize("env_id", [env_id for env_id in (*OURS, *sorted(PROBES)[:3]) if env_id in gym.registry])
def test_envs_of_gymnasium_and_of_rlab_raise_no_false_alarm(env_id):
    checked(env_id)


@pytest.mark.parametrize("env_id", BOX2D)
def test_box2d_raises_no_false_alarm(env_id):
    pytest.importorskip("Box2D")
    checked(env_id)


@pytest.mark.parametrize("wrapper", ["ImgObsWrapper", "FlatObsWrapper"])
@pytest.mark.parametrize("env_id", MINIGRID)
def test_minigrid_raises_no_false_alarm(env_id, wrapper):
    pytest.importorskip("minigrid")
    checked(env_id, [wrapper])


@pytest.mark.prove
@pytest.mark.parametrize(
    "row", [row for row in list_envs() if row.installed and "-WFC-" not in row.env_id], ids=lambda row: row.env_id
)
def test_no_installed_env_raises_a_false_alarm(row):
    # without MiniGrid's WFC family: its wheel lacks the pictures that some of them read
    if row.env_id.startswith(("BabyAI", "MiniGrid")):
        checked(row.env_id, ["ImgObsWrapper"], steps=1_000)
    else:
        checked(row.env_id, steps=1_000)
