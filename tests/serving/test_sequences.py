"""Policies with memory: the client keeps the state, or the server does by the id of an episode."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlab.networks.policy import MemberPolicy
from rlab.serving.limits import Limits
from rlab.serving.sequences import Sequences, named
from rlab.serving.web import Refused

STEPS = np.random.default_rng(3).normal(size=(6, 1, 4)).astype(np.float32)


def actions(member: MemberPolicy, steps: np.ndarray) -> list[int]:
    """What the policy itself does in this episode."""
    state, found = member.initial_state(1), []
    for obs in steps:
        action, state = member(obs, state=state)
        found.append(int(action[0]))
    return found


def test_a_client_that_sends_the_state_back_plays_the_policys_episode(
    server: Any, member: Callable[..., MemberPolicy], input_tensor: Callable[..., Any]
) -> None:
    state, found = np.zeros((1, 8), np.float32), []
    for obs in STEPS:
        answer = server.infer("memory", input_tensor("obs", obs), input_tensor("state", state)).json
        outputs = {output["name"]: output for output in answer["outputs"]}
        assert outputs.keys() == {"action", "next_state"}
        found += outputs["action"]["data"]
        state = np.float32(outputs["next_state"]["data"]).reshape(1, 8)
    assert found == actions(member("memory"), STEPS)


def test_the_server_keeps_the_states_of_several_episodes_apart(
    server: Any, member: Callable[..., MemberPolicy], input_tensor: Callable[..., Any]
) -> None:
    episodes = {"a": STEPS, 7: -STEPS}
    found: dict[Any, list[int]] = {"a": [], 7: []}
    for step in range(len(STEPS)):
        for id, steps in episodes.items():
            parameters = {"sequence_id": id, "sequence_start": step == 0, "sequence_end": step == len(STEPS) - 1}
            answer = server.infer("memory", input_tensor("obs", steps[step]), parameters=parameters).json
            (action,) = answer["outputs"]
            found[id] += action["data"]
    assert found == {id: actions(member("memory"), steps) for id, steps in episodes.items()}
    after = server.infer("memory", input_tensor("obs", STEPS[0]), parameters={"sequence_id": "a"})
    assert "unknown sequence 'a': begin it with the parameter sequence_start" in after.error


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "needs its state: the input state [rows, 8], zeros where an episode begins"),
        ({"sequence_id": "new"}, "unknown sequence 'new'"),
        ({"sequence_start": True}, "need a sequence_id"),
        ({"sequence_id": "x", "sequence_start": 1}, "must be true or false"),
        ({"sequence_id": 1.5}, "must be a number or a text of at most 128 characters"),
        ({"sequence_id": "x" * 129, "sequence_start": True}, "must be a number or a text of at most 128 characters"),
    ],
)
def test_a_step_without_its_state_is_refused_with_both_ways(
    server: Any, input_tensor: Callable[..., Any], parameters: dict[str, Any], message: str
) -> None:
    answer = server.infer("memory", input_tensor("obs", STEPS[0]), parameters=parameters)
    assert answer.status == 400
    assert message in answer.error


def kept(**limits: Any) -> tuple[Sequences, Any]:
    """Sequences within limits, and what stands for the batcher of a model."""
    return Sequences(Limits(**limits)), SimpleNamespace(model=SimpleNamespace(name="m", state_size=2))


def test_a_step_that_has_no_answer_yet_keeps_the_next_one_waiting_outside() -> None:
    sequences, batcher = kept()
    first = sequences.taken(batcher, "a", 1, True)
    with pytest.raises(Refused, match="has no answer yet") as caught:
        sequences.taken(batcher, "a", 1, False)
    assert caught.value.status == 409
    sequences.put_back("m", "a", first, np.ones((1, 2), np.float32), False)
    assert sequences.taken(batcher, "a", 1, False).state.tolist() == [[1.0, 1.0]]


def test_a_step_that_fails_leaves_the_state_as_it_was() -> None:
    sequences, batcher = kept()
    sequence = sequences.taken(batcher, "a", 1, True)
    sequences.put_back("m", "a", sequence, None, True)
    assert sequences.taken(batcher, "a", 1, False).state.tolist() == [[0.0, 0.0]]


def test_there_are_no_more_sequences_than_the_limit_and_silent_ones_make_room() -> None:
    sequences, batcher = kept(max_sequences=2, sequence_seconds=0.05)
    for id in "ab":
        sequences.put_back("m", id, sequences.taken(batcher, id, 1, True), np.zeros((1, 2)), False)
    with pytest.raises(Refused, match="too many sequences") as caught:
        sequences.taken(batcher, "c", 1, True)
    assert caught.value.status == 503
    sequences._kept["m", "a"].used -= 1.0  # silent for a second longer
    sequences.taken(batcher, "c", 1, True)
    assert [id for _, id in sequences._kept] == ["b", "c"]


def test_an_episode_keeps_its_rows() -> None:
    sequences, batcher = kept()
    sequences.put_back("m", "a", sequences.taken(batcher, "a", 2, True), np.zeros((2, 2)), False)
    with pytest.raises(Refused, match="has 2 rows, and this request 3"):
        sequences.taken(batcher, "a", 3, False)


def test_the_id_that_tritons_clients_send_for_none_names_none() -> None:
    assert named({"sequence_id": 0, "sequence_start": False, "sequence_end": False}) == (None, False, False)
    assert named({"binary_data_output": True}) == (None, False, False)
