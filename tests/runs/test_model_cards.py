"""The model card: what the Hugging Face hub's client reads of it, and that nothing in it is taken for markup."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from rlab.errors import RlabError
from rlab.runs.model_card import card
from rlab.runs.versions import Returned, Step, Version

SPACES = {"obs_space": {"kind": "box", "shape": [4]}, "action_space": {"kind": "discrete", "n": 2}}
MEMBERS = {3: (490.5, 491.0), 4: (500.0, 500.0)}
HOSTILE = "`<script>alert(1)</script> | `x` \n# heading [a](javascript:1) \x1b[31m \u202e"
VERSION = Version(
    name="pole",
    version=3,
    published="2026-11-27T12:00:00Z",
    source="runs/a",
    agent="ppo",
    env={"env_id": "CartPole-v1", "kwargs": {"gravity": 12.0}, "wrappers": [], "max_episode_steps": 300},
    seeds=(3, 4),
    dropped=(5,),
    unit="env_steps",
    time=100_000,
    weights_sha256="ab" * 32,
    lineage=(
        Step(how="compressed", name="a", weights_sha256="cd" * 32, version="pole@2", steps=("distil:64x64", "int8")),
        Step(how="fine-tuned", name="old", weights_sha256="ef" * 32),
    ),
    returned=Returned(
        iqm=495.25,
        ci95=(490.5, 500.0),
        ci95_coverage=0.5,
        episodes_ci95=(493.0, 497.5),
        mean=495.25,
        worst_seed=490.5,
        episodes=100,
        first_seed=100_000,
    ),
    config={
        "run": {"seeds": 3, "num_envs": 8},
        "settings": {"gamma": 0.99, "clip": 0.2},
        "origins": {"gamma": "command line"},
        "not_in_force": {"clip": "why"},
        "command": "rlab train ppo CartPole-v1",
        "commit": "0123",
    },
    computed_with={"torch": "2.12.0", "cpu": "a processor", "device": "cpu"},
    wall_seconds=61.4,
)


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_the_hub_client_reads_the_metadata_and_the_results_of_a_card() -> None:
    hub: Any = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard(card(VERSION, SPACES, MEMBERS), ignore_metadata_errors=False)
    data = found.data
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("rlab", "reinforcement-learning", "pole")
    assert data.tags == ["reinforcement-learning", "rlab", "ppo", "CartPole-v1"]
    results = {each.metric_type: each for each in data.eval_results}
    assert {kind: each.metric_value for kind, each in results.items()} == {"mean_reward": 495.25, "iqm": 495.25}
    assert {(each.task_type, each.dataset_type) for each in results.values()} == {
        ("reinforcement-learning", "CartPole-v1")
    }
    assert hub.ModelCard(str(found)).data.to_dict() == data.to_dict()  # as the client writes it


@pytest.mark.parametrize("value", [1e-7, -1.5e-300, 1e22, 0.0, -200.0, 123456.789])
def test_numbers_of_any_size_are_numbers_to_readers_of_yaml(value: float) -> None:
    yaml: Any = pytest.importorskip("yaml")
    text = card(replace(VERSION, returned=replace(VERSION.returned, mean=value)), SPACES, MEMBERS)
    result = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0]["metrics"][0]
    assert result == {"type": "mean_reward", "value": value, "name": "mean return"}


def test_the_card_says_what_was_measured_and_how_sure_that_is() -> None:
    found = section(card(VERSION, SPACES, MEMBERS), "Measured return")
    assert "100 episodes per member, greedy actions, env seeds 100,000 to 100,099" in found
    assert "| IQM of the members' mean returns | 495.2 |" in found or "| 495.3 |" in found
    assert "[490.5, 500.0] (of so few members it holds the true value in 50% of cases)" in found
    assert "| 3 | 490.5 | 491.0 |" in found
    assert "Members that training went on without, since their numbers were not finite: seeds 5." in found


def test_the_card_says_where_a_policy_comes_from_and_where_that_ends() -> None:
    found = section(card(VERSION, SPACES, MEMBERS), "Where it comes from")
    assert "1. compressed (`distil:64x64`, `int8`) from `pole@2`, weights `cdcdcdcd`" in found
    assert "1. fine-tuned from `old`, weights `efefefef`" in found
    assert "What that policy was made of is not on record here." in found
    whole = replace(VERSION, lineage=(Step(how="trained"),))
    assert "1. trained\n\nPublished" in section(card(whole, SPACES, MEMBERS), "Where it comes from")


def test_settings_that_were_chosen_come_first_and_those_not_in_force_are_left_out() -> None:
    found = section(card(VERSION, SPACES, MEMBERS), "Settings")
    chosen, _, defaults = found.partition("<details>")
    assert "| `gamma` | `0.99` | `command line` |" in chosen
    assert "| `num_envs` | `8` |" in defaults
    assert "clip" not in found
    unknown = section(card(replace(VERSION, config=None), SPACES, MEMBERS), "Settings")
    assert unknown.strip() == "The settings of its training are not on record in this policy."


def test_versions_hardware_command_and_limits_are_there() -> None:
    text = card(VERSION, SPACES, MEMBERS)
    made = section(text, "Versions and hardware")
    for part in ("| `torch` | `2.12.0` |", "| `cpu` | `a processor` |", "61 s", "rlab train ppo CartPole-v1", "`0123`"):
        assert part in made
    assert "It was judged in `CartPole-v1` as described above and nowhere else" in section(text, "Limits")
    assert "needs no `--trust`" in section(text, "Limits")
    foreign = replace(VERSION, env={"env_id": "my_envs:Grid"})
    assert "which judging it runs with `--trust`" in section(card(foreign, SPACES, MEMBERS), "Limits")


def test_nothing_that_comes_from_a_run_is_read_as_markup() -> None:
    config = {"settings": {HOSTILE: HOSTILE}, "origins": {HOSTILE: HOSTILE}, "command": f"rlab {HOSTILE} ```"}
    hostile = replace(
        VERSION,
        agent=HOSTILE,
        source=HOSTILE,
        env={"env_id": HOSTILE, "kwargs": {HOSTILE: HOSTILE}},
        lineage=(Step(how="compressed", name=HOSTILE, weights_sha256=HOSTILE, steps=(HOSTILE,)),),
        config=config,
        computed_with={HOSTILE: HOSTILE},
    )
    text = card(hostile, SPACES, MEMBERS)
    _, metadata, body = text.split("---\n", 2)
    yaml: Any = pytest.importorskip("yaml")
    assert isinstance(yaml.safe_load(metadata), dict)
    without_code = re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)
    assert "script" not in without_code
    assert "javascript" not in without_code
    assert [line for line in body.splitlines() if line.startswith("# ")] == ["# pole, version 3"]
    assert not re.search("[\x1b\u202e]", text)
    for row in re.findall(r"^\|.*\|$", section(text, "Settings"), re.MULTILINE):
        assert len(re.findall(r"(?<!\\)\|", row)) in (3, 4)  # as many cells as its head has


def test_a_version_comes_back_as_it_was_written(tmp_path: Any) -> None:
    config = {"agent": "ppo", "env": {"env_id": "CartPole-v1"}, "run": {"env_steps": 1, "seed": 0, "seeds": 1}}
    version = replace(VERSION, config={**config, "settings": {}})
    plain = json.loads(json.dumps({"format": 1, **version.to_json()}))
    assert Version.from_json(plain, tmp_path) == version


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../x"}, "cannot be its name"),
        ({"name": 3}, "'name' cannot be 3"),
        ({"version": True}, "'version' cannot be True"),
        ({"version": -1}, "version must be a whole number"),
        ({"seeds": []}, "cannot be empty"),
        ({"seeds": [0.5]}, "seed must be a whole number"),
        ({"lineage": []}, "cannot be empty"),
        ({"lineage": [{"how": "<b>"}]}, "it lacks"),
        ({"lineage": [{**vars(Step(how="stolen")), "steps": []}]}, "a step that this rlab does not know"),
        ({"weights_sha256": "x"}, "cannot be empty"),
        ({"returned": {}}, "it lacks 'ci95'"),
        ({"returned": {**vars(VERSION.returned), "ci95": [1]}}, "'ci95' must be the two ends"),
        (
            {"returned": {**vars(VERSION.returned), "ci95": None, "episodes_ci95": ["a", "b"]}},
            "'episodes_ci95' must be",
        ),
        ({"env": {}}, "env must name its env_id"),
        ({"config": {"agent": 1}}, "lacks"),
        ({"more": 1}, "it cannot have 'more'"),
    ],
)
def test_a_version_that_was_edited_is_refused_in_one_line(tmp_path: Any, change: dict[str, Any], message: str) -> None:
    plain = json.loads(json.dumps({**VERSION.to_json(), "config": None}))
    change = {name: json.loads(json.dumps(value)) for name, value in change.items()}
    with pytest.raises(RlabError, match=re.escape(message)) as error:
        Version.from_json({**plain, **change}, tmp_path / "version.json")
    assert "\n" not in str(error.value)
