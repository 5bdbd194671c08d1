"""What is asked, answered and told is written down within its bounds, and becomes a dataset."""

import errno
import json
import os
import time
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from rlab.errors import DiskError, UsageError
from rlab.experience.minari_files import read_dataset
from rlab.experience.recording_lines import SEGMENTS
from rlab.experience.recordings import read_recording
from rlab.networks.obs_look import ObsLook
from rlab.networks.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from rlab.serving.feedback import parse
from rlab.serving.observers import AnsweredBatch
from rlab.serving.ports import Port
from rlab.serving.recording import MIB, PAUSE, Recorded, Recorder, Room, check_folder
from rlab.serving.shared import EVERY
from rlab.serving.web import Refused

CART = Box((2,), "float32", -np.inf, np.inf)
PUSH = Discrete(2, start=3)
PATIENCE = 30.0  # seconds until a busy machine has written down what it answered
SMALL = Room(most_bytes=4_000, segment_bytes=1_000)


def served(obs_space=CART, action_space=PUSH, version="1", name="cart"):
    """A model as far as recording looks at it."""
    runner = SimpleNamespace(obs_space=obs_space, action_space=action_space)
    dtype = np.dtype(action_space.dtype)
    return SimpleNamespace(
        name=name,
        version=version,
        runner=runner,
        metadata={"agent": "dqn", "parent_sha256": "ab"},
        inputs={"obs": Port("obs", obs_space.shape, np.dtype(obs_space.dtype))},
        outputs={"action": Port("action", action_space.shape, dtype)},
        look=ObsLook(obs_space),
    )


def answer(*requests, sequence="s", action=3, time=1):
    """A batch of requests `(id, observations)`."""
    rows = [np.array(obs, np.float32).reshape(-1, 2) for _, obs in requests]
    obs = np.concatenate(rows)
    return AnsweredBatch(
        ids=[id for id, _ in requests],
        rows=[len(each) for each in rows],
        sequences=[sequence] * len(requests),
        starts=[False] * len(requests),
        seconds=[0.001] * len(requests),
        time=time,
        obs=obs,
        actions=np.full(len(obs), action),
        outputs=np.zeros((len(obs), 2), np.float32),
    )


def told(recorder, model, *feedback):
    recorder.tell(model, parsed(model, *feedback))


def parsed(model, *feedback, most_rows=100):
    return parse(json.dumps({"feedback": feedback}).encode(), model, most_rows, 1)


def segments(root):
    return sorted(root.glob(f"*/{SEGMENTS}"), key=lambda path: path.name)


def test_what_was_answered_and_told_becomes_a_dataset_with_actions_counted_from_0(tmp_path):
    recorder, model = Recorder(tmp_path, Room()), served()
    recorder.answered(model, answer(("a", [0, 1]), ("other", [5, 5]), action=4))
    recorder.answered(model, answer(("b", [2, 3])))
    told(recorder, model, {"id": "a", "reward": 1.5})
    told(recorder, model, {"id": "other", "reward": 0})
    told(recorder, model, {"id": "b", "reward": -1, "terminated": True, "next_obs": [4, 5]})
    recorder.stopped()
    dataset = read_recording(tmp_path / "cart")
    (episode,) = dataset.episodes
    assert episode.obs.tolist() == [[0, 1], [5, 5], [2, 3], [4, 5]]
    assert (episode.action.tolist(), episode.reward.tolist()) == ([1, 1, 0], [1.5, 0.0, -1.0])
    assert episode.terminated
    assert recorder.counts == Recorded(observations=3, feedback=3, lost=0)


def test_a_new_version_has_a_segment_of_its_own_in_the_same_recording(tmp_path):
    recorder = Recorder(tmp_path, Room())
    for version in "12":
        model = served(version=version)
        recorder.answered(model, answer((f"r{version}", [0, 1]), sequence=None))
        told(recorder, model, {"id": f"r{version}", "reward": 1, "terminated": True, "next_obs": [4, 5]})
    assert read_recording(tmp_path / "cart").facts["versions"] == ["1", "2"]
    assert len(segments(tmp_path)) == 2


def test_the_oldest_segments_give_way_and_what_was_told_of_them_is_counted(tmp_path):
    recorder, model = Recorder(tmp_path, SMALL), served()
    for step in range(60):
        recorder.answered(model, answer((f"r{step}", [step, 0])))
        sizes = [path.stat().st_size for path in segments(tmp_path)]
        assert max(sizes) <= 1_000
        assert sum(sizes) <= 4_000
    told(recorder, model, {"id": "r0", "reward": 1})
    told(recorder, model, {"id": "r58", "reward": 1})
    dataset = read_recording(tmp_path / "cart")
    counts = dataset.facts["recorded"]
    assert dataset.episodes[0].obs[:, 0].tolist() == [58.0, 59.0]
    assert (counts["told"], counts["told_of_none"], counts["learned_from"]) == (2, 1, 1)


def test_all_models_share_the_room_and_the_oldest_of_any_gives_way(tmp_path):
    recorder = Recorder(tmp_path, SMALL)
    old, new = served(name="old"), served(name="new")
    recorder.answered(old, answer(("first", [0, 0])))
    for step in range(60):
        recorder.answered(new, answer((f"r{step}", [step, 0])))
    assert {path.parent.name for path in segments(tmp_path)} == {"new"}
    recorder.answered(old, answer(("second", [0, 0])))  # its segment was deleted: it begins another
    assert {path.parent.name for path in segments(tmp_path)} == {"new", "old"}


def test_several_processes_write_one_recording(tmp_path, monkeypatch):
    model, workers = served(), []
    for process in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        workers.append(Recorder(tmp_path, Room()))
        workers[-1].answered(model, answer((f"r{process}", [process, 0])))
    told(workers[1], model, {"id": "r1", "reward": 1})
    assert read_recording(tmp_path / "cart").episodes[0].obs[:, 0].tolist() == [1.0, 2.0]


def test_what_a_full_disk_refuses_is_lost_and_counted_and_what_follows_is_whole(tmp_path, monkeypatch):
    clock, write = [0], os.write
    recorder, model = Recorder(tmp_path, Room(), lambda: clock[0]), served()
    recorder.answered(model, answer(("a", [0, 0])))
    tried = []

    def cut_off(file, data):
        tried.append(len(data))
        return write(file, data[:20])

    def refused(file, data):
        tried.append(len(data))
        raise OSError(errno.ENOSPC, "No space left on device")

    for failing in (cut_off, refused, cut_off):
        clock[0] += 2 * PAUSE
        monkeypatch.setattr(os, "write", failing)
        recorder.answered(model, answer(("lost", [9, 9])))
        recorder.answered(model, answer(("lost too", [9, 9])))  # at once: the disk is not tried again
    with pytest.raises(DiskError):
        told(recorder, model, {"id": "a", "reward": 1})
    monkeypatch.setattr(os, "write", write)
    clock[0] += 2 * PAUSE
    recorder.answered(model, answer(("b", [1, 0])))
    told(recorder, model, {"id": "a", "reward": 1})
    assert len(tried) == 3
    assert recorder.counts == Recorded(observations=2, feedback=1, lost=7)
    assert read_recording(tmp_path / "cart").episodes[0].obs[:, 0].tolist() == [0.0, 1.0]
    assert len(segments(tmp_path)) == 2  # none that is empty


def test_times_grow_even_when_the_clock_goes_back(tmp_path):
    clock = iter([5, 3, 3, 9])
    recorder = Recorder(tmp_path, Room(), lambda: next(clock))
    assert [recorder.time() for _ in range(4)] == [5, 6, 7, 9]


def test_steps_stand_in_the_order_of_their_answers_however_late_a_worker_writes_them_down(tmp_path):
    """The first of two workers loses its core between an answer and the line of it, while the other one goes on."""
    slow, quick, model = Recorder(tmp_path, Room()), Recorder(tmp_path, Room()), served()
    quick.answered(model, answer(("b", [1, 0]), time=2))
    slow.answered(model, answer(("a", [0, 0]), time=1))
    quick.answered(model, answer(("c", [2, 0]), time=3))
    told(quick, model, {"id": "a", "reward": 1}, {"id": "b", "reward": 2})
    (episode,) = read_recording(tmp_path / "cart").episodes
    assert episode.obs[:, 0].tolist() == [0, 1, 2]
    assert episode.reward.tolist() == [1, 2]


def test_a_model_whose_name_is_a_path_stays_in_the_folder(tmp_path):
    recorder = Recorder(tmp_path / "in", Room())
    recorder.answered(served(name=".."), answer(("a", [0, 0])))
    assert [path.parent.name for path in tmp_path.rglob(SEGMENTS)] == ["-"]


def test_room_is_given_in_mebibytes_and_a_folder_that_cannot_be_made_is_refused(tmp_path):
    assert Room.of(1024) == Room(1024 * MIB, 16 * MIB)
    assert Room.of(8) == Room(8 * MIB, MIB)
    with pytest.raises(UsageError, match="1 MiB at least, not 0"):
        Room.of(0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--record .*file/in cannot be made: Not a directory"):
        check_folder(tmp_path / "file" / "in")


# What is told


def test_feedback_on_several_observations_has_lists_and_next_obs_of_those_that_ended(tmp_path):
    (found,) = parsed(
        served(),
        {
            "id": "a",
            "reward": [1, 2.5, 3],
            "terminated": [False, True, True],
            "truncated": [True, False, True],
            "next_obs": [[1, 2], [3, 4], [5, 6]],
            "action": [3, 4, 3],
        },
    )
    assert found.reward.tolist() == [1.0, 2.5, 3.0]
    assert (found.terminated.tolist(), found.truncated.tolist()) == ([False, True, True], [True, False, False])
    assert found.next_obs.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found.action.tolist() == [0, 1, 0]
    assert (found.reward.dtype, found.next_obs.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize(
    ("model", "obs", "action"),
    [
        (served(Discrete(4), MultiDiscrete((2, 3), (0, 1), (2,))), 3, [1, 2]),
        (
            served(Box((2, 2, 1), "uint8", 0.0, 255.0), Box((1,), "float32", -1.0, 1.0)),
            [[[0], [1]], [[2], [255]]],
            [0.5],
        ),
    ],
    ids=["numbers", "images"],
)
def test_the_only_observation_of_a_request_is_told_of_as_the_env_gives_it(model, obs, action):
    (found,) = parsed(model, {"id": "a", "reward": 1, "terminated": True, "next_obs": obs, "action": action})
    assert found.next_obs.tolist() == [obs]
    assert found.next_obs.dtype == model.runner.obs_space.dtype
    assert found.action.shape == (1, *model.runner.action_space.shape)


STEP = {"id": "a", "reward": 1}
REFUSED = {
    "no object": ([], "Expected `object`, got `array`"),
    "nothing": ({"feedback": []}, "tells of 0 observations; 1 to 100"),
    "an unknown key": ({"feedback": [STEP], "more": 1}, "unknown field `more`"),
    "no id": ({"feedback": [{"reward": 1}]}, "missing required field `id`"),
    "an empty id": ({"feedback": [{**STEP, "id": ""}]}, "an id has 1 to 256 characters, not 0"),
    "no reward": ({"feedback": [{"id": "a"}]}, "missing required field `reward`"),
    "a text for a reward": ({"feedback": [{**STEP, "reward": "1"}]}, "not feedback"),
    "no number for a reward": ({"feedback": [{**STEP, "reward": float("nan")}]}, "NaN and Infinity are not numbers"),
    "an empty list among others": ({"feedback": [STEP, {**STEP, "reward": []}]}, "feedback on 'a' has no reward"),
    "a large reward": ({"feedback": [{**STEP, "reward": 1e39}]}, "reward 1e\\+39 of 'a' is one that float32 does not"),
    "too many": ({"feedback": [{**STEP, "reward": [1] * 101}]}, "tells of 101 observations; 1 to 100"),
    "a number for a flag": ({"feedback": [{**STEP, "terminated": 1}]}, "not feedback"),
    "few flags": ({"feedback": [{**STEP, "reward": [1, 1], "terminated": [True]}]}, "has 1 values for 2 rewards"),
    "no last obs": ({"feedback": [{**STEP, "truncated": True}]}, "an end needs next_obs.* that of 'a'"),
    "null for it": ({"feedback": [{**STEP, "truncated": True, "next_obs": None}]}, "an end needs next_obs"),
    "an obs too many": ({"feedback": [{**STEP, "next_obs": [1, 2]}]}, "a step that ends nothing takes no next_obs"),
    "a short obs": ({"feedback": [{**STEP, "terminated": True, "next_obs": [1]}]}, "next_obs"),
    "an obs of texts": ({"feedback": [{**STEP, "terminated": True, "next_obs": ["a", "b"]}]}, "next_obs"),
    "a large obs": ({"feedback": [{**STEP, "terminated": True, "next_obs": [1e39, 0]}]}, "holds 1e\\+39"),
    "an action of another space": ({"feedback": [{**STEP, "action": 5}]}, "action of 'a' is not one of"),
    "a fraction for a choice": ({"feedback": [{**STEP, "action": 3.5}]}, "action"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_feedback_that_does_not_fit_is_refused_with_one_line(name):
    body, message = REFUSED[name]
    with pytest.raises(Refused, match=message) as caught:
        parse(json.dumps(body).encode(), served(), 100, 1)
    assert caught.value.status == 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (PUSH, 2**63),
        (PUSH, -(2**63)),
        (MultiBinary((2,)), [256, 0]),
        (MultiDiscrete((2, 3), (0, 1), (2,)), [1, 2**32]),
        (Box((1,), "uint8", 0.0, 255.0), [256]),
        (Box((1,), "float32", -1.0, 1.0), [1e308]),
        (Box((1,), "float32", -1.0, 1.0), [1.1]),
    ],
    ids=str,
)
def test_an_action_that_its_space_does_not_have_is_refused_however_large_it_is(space, action):
    with pytest.raises(Refused, match="action"):
        parsed(served(action_space=space), {**STEP, "action": action})


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"feedback": [{"id": "a", "reward": NaN}]}', b"[" * 100_000])
def test_feedback_that_is_not_json_is_refused(body):
    with pytest.raises(Refused) as caught:
        parse(body, served(), 100, 1)
    assert caught.value.status == 400


# A server


def test_a_served_policy_s_episodes_come_back_from_its_recording_whoever_answered(tmp_path, policies, serve):
    """Two workers answer; each request has a connection of its own, so that either may be told of any."""
    server = serve(policies / "cartpole", "--record", tmp_path / "in", "--workers", "2")
    assert server.post("/v2/models/cartpole/feedback", {"feedback": []}).status == 400
    assert server.post("/v2/models/other/feedback", {"feedback": [{"id": "a", "reward": 1}]}).status == 404
    assert list((tmp_path / "in").iterdir()) == []
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=1)
    seen, taken, ended, step = [obs], [], False, 0
    while not ended:
        asked = {"id": f"r{step}", "parameters": {"sequence_id": "e"}, "inputs": [tensor_of(obs)]}
        action = server.post("/v2/models/cartpole/infer", asked).json["outputs"][0]["data"][0]
        obs, reward, ended, _, _ = env.step(action)
        seen.append(obs)
        taken.append(action)
        end = {"terminated": True, "next_obs": obs.tolist()} if ended else {}
        became = {"feedback": [{"id": f"r{step}", "reward": reward, **end}]}
        assert server.post("/v2/models/cartpole/feedback", became).json == {"recorded": 1}
        step += 1
    env.close()
    counted = {f"rlab_recorded_observations_total {step}.0", f"rlab_recorded_feedback_total {step}.0"}
    until = time.monotonic() + PATIENCE
    while not counted < set(server.get("/metrics").body.decode().splitlines()):  # an answer leaves before its line
        assert time.monotonic() < until, "not everything is counted"
        time.sleep(EVERY)  # after which a worker knows what the other one has counted
    (episode,) = read_dataset(tmp_path / "in").episodes  # the server still runs
    said = server.log.with_suffix(".out").read_text().splitlines()
    assert f"recording what is asked, answered and told in {tmp_path / 'in'}" in said
    assert server.stop() == 0
    assert np.array_equal(episode.obs, np.array(seen, np.float32))
    assert episode.action.tolist() == taken
    assert (episode.reward == 1).all()
    assert episode.terminated


def test_a_server_that_does_not_record_says_so_to_feedback(server):
    found = server.post("/v2/models/cartpole/feedback", {"feedback": [{"id": "a", "reward": 1}]})
    assert (found.status, "this server records nothing; start it with --record" in found.error) == (404, True)
    assert not [path for path in server.get("/openapi.json").json["paths"] if "feedback" in path]


def tensor_of(obs):
    return {"name": "obs", "shape": [1, *obs.shape], "datatype": "FP32", "data": obs.ravel().tolist()}
