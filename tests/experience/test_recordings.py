"""What a server wrote down of requests, and of what their actions led to, becomes the episodes that they were."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from rlab.errors import RlabError, UsageError
from rlab.experience.minari_files import list_datasets, read_dataset
from rlab.experience.recording_lines import Answers, Header, Told, read_segment, segment_name
from rlab.experience.recordings import Counts, episodes_of, in_words, read_recording, recording_at
from rlab.jobs.collect import merge_datasets
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiBinary

OBS = Box((1,), "float32", -np.inf, np.inf)
TWO = Discrete(2, start=5)


def asked(time, *requests, action=None):
    """Requests `(id, sequence, observations)`, or with a fourth element true where the sequence begins there."""
    rows = [obs for _, _, obs, *_ in requests]
    obs = np.array([value for values in rows for value in values], np.float32)[:, None]
    chosen = np.zeros(len(obs), np.int64) if action is None else np.array(action)
    ids, sequences, lengths = [r[0] for r in requests], [r[1] for r in requests], [len(values) for values in rows]
    return Answers(time, tuple(ids), tuple(lengths), tuple(sequences), tuple(len(r) > 3 for r in requests), obs, chosen)


def told(request, reward, terminated=False, truncated=False, next_obs=(), action=None, time=0):
    rewards = np.atleast_1d(np.array(reward, np.float32))
    ends = (np.zeros(len(rewards), bool) | end for end in (terminated, truncated))
    taken = None if action is None else np.array(action)
    return Told(time, request, rewards, *ends, np.array(next_obs, np.float32).reshape(-1, 1), taken)


def put_together(*lines):
    counts = Counts()
    found = episodes_of(lines, OBS, TWO, counts)
    return [plain(episode) for episode in found], {name: count for name, count in asdict(counts).items() if count}


def plain(episode):
    end = "terminated" if episode.terminated else "truncated" if episode.truncated else "cut"
    return episode.obs[:, 0].tolist(), episode.action.tolist(), episode.reward.tolist(), end


def test_the_requests_of_a_sequence_are_one_episode_that_ends_where_it_was_told():
    episodes, counts = put_together(
        asked(1, ("a", "s", [0.0]), action=[1]),
        asked(2, ("b", "s", [1.0])),
        told("a", 0.5),
        told("b", 2.0, terminated=True, next_obs=[9.0]),
    )
    assert episodes == [([0.0, 1.0, 9.0], [1, 0], [0.5, 2.0], "terminated")]
    assert counts == {"answered": 2, "learned_from": 2, "told": 2}


def test_what_is_asked_of_a_sequence_after_an_end_begins_its_next_episode():
    episodes, _ = put_together(
        *(asked(time, (f"r{time}", "7", [float(time)])) for time in range(4)),
        told("r0", 1.0),
        told("r1", 1.0, truncated=True, next_obs=[50.0]),
        told("r2", 3.0, truncated=True, next_obs=[60.0]),
        told("r3", 4.0, terminated=True, next_obs=[70.0]),
    )
    assert episodes == [
        ([0.0, 1.0, 50.0], [0, 0], [1.0, 1.0], "truncated"),
        ([2.0, 60.0], [0], [3.0], "truncated"),
        ([3.0, 70.0], [0], [4.0], "terminated"),
    ]


def test_each_row_of_the_requests_of_a_sequence_is_an_episode_of_its_own():
    episodes, counts = put_together(
        asked(1, ("a", "s", [0.0, 10.0]), action=[0, 1]),
        asked(2, ("b", "s", [1.0, 11.0])),
        asked(3, ("c", "s", [2.0, 12.0])),
        told("a", [1.0, 2.0]),
        told("b", [3.0, 4.0], terminated=[False, True], next_obs=[99.0]),
        told("c", [5.0, 6.0], truncated=[True, True], next_obs=[3.0, 13.0]),
    )
    assert episodes == [
        ([0.0, 1.0, 2.0, 3.0], [0, 0, 0], [1.0, 3.0, 5.0], "truncated"),
        ([10.0, 11.0, 99.0], [1, 0], [2.0, 4.0], "terminated"),
        ([12.0, 13.0], [0], [6.0], "truncated"),
    ]
    assert counts == {"answered": 6, "learned_from": 6, "told": 6}


def test_a_step_whose_reward_is_missing_is_left_out_and_cuts_its_episode():
    episodes, counts = put_together(
        *(asked(time, (f"r{time}", "s", [float(time)])) for time in range(5)),
        *(told(f"r{time}", 1.0) for time in (0, 1, 3)),
        told("r4", 1.0, terminated=True, next_obs=[5.0]),
    )
    assert episodes == [
        ([0.0, 1.0, 2.0], [0, 0], [1.0, 1.0], "cut"),
        ([3.0, 4.0, 5.0], [0, 0], [1.0, 1.0], "terminated"),
    ]
    assert counts == {"answered": 5, "learned_from": 4, "without_reward": 1, "told": 4}


def test_an_episode_under_way_is_cut_at_the_observation_that_was_asked_about_last():
    lines = [asked(time, (f"r{time}", "s", [float(time)])) for time in range(3)]
    with_reward, counts = put_together(*lines, *(told(f"r{time}", 1.0) for time in range(3)))
    without, others = put_together(*lines, *(told(f"r{time}", 1.0) for time in range(2)))
    assert with_reward == without == [([0.0, 1.0, 2.0], [0, 0], [1.0, 1.0], "cut")]
    assert (counts["under_way"], others["under_way"]) == (1, 1)
    assert "without_reward" not in {**counts, **others}


def test_a_request_that_starts_its_sequence_anew_does_not_follow_the_one_before_it():
    episodes, counts = put_together(
        asked(1, ("a", "s", [0.0])),
        asked(2, ("b", "s", [1.0])),
        asked(3, ("c", "s", [7.0], True)),
        *(told(request, 1.0) for request in "ab"),
        told("c", 1.0, terminated=True, next_obs=[8.0]),
    )
    assert episodes == [([0.0, 1.0], [0], [1.0], "cut"), ([7.0, 8.0], [0], [1.0], "terminated")]
    assert counts["under_way"] == 1


def test_a_request_of_no_sequence_is_an_episode_of_one_step():
    episodes, counts = put_together(
        asked(1, ("s", None, [0.0]), ("a", "s", [4.0]), action=[1, 0]),
        told("s", 2.0, terminated=True, next_obs=[0.0]),
        told("a", 3.0, terminated=True, next_obs=[0.0]),
    )
    assert episodes == [([0.0, 0.0], [1], [2.0], "terminated"), ([4.0, 0.0], [0], [3.0], "terminated")]
    assert counts["answered"] == 2


def test_the_action_that_was_taken_replaces_the_one_that_was_answered():
    episodes, _ = put_together(
        asked(1, ("a", "s", [0.0]), action=[0]), told("a", 1.0, terminated=True, next_obs=[1.0], action=[1])
    )
    assert episodes[0][1] == [1]


def test_steps_are_in_the_order_in_which_they_were_answered_whoever_wrote_them_down():
    lines = [asked(time, (f"r{time}", "s", [float(time)])) for time in (2, 0, 1)]
    episodes, _ = put_together(told("r1", 1.0), *lines, told("r0", 1.0))
    assert episodes == [([0.0, 1.0, 2.0], [0, 0], [1.0, 1.0], "cut")]


def test_a_request_that_was_sent_again_counts_once_and_one_under_a_used_id_is_not_rewarded():
    again, counts = put_together(
        asked(1, ("a", "s", [0.0])),
        asked(2, ("a", "s", [0.0])),
        asked(3, ("b", "s", [1.0])),
        told("a", 1.0),
    )
    assert again == [([0.0, 1.0], [0], [1.0], "cut")]
    assert (counts["answered"], counts["repeated_requests"]) == (2, 1)
    used, counts = put_together(
        asked(1, ("a", "s", [0.0])), asked(2, ("a", "s", [1.0])), asked(3, ("b", "s", [2.0])), told("a", 1.0)
    )
    assert used == []
    assert (counts["ambiguous_requests"], counts["told_of_none"], counts["without_reward"]) == (1, 1, 2)


def test_what_was_told_twice_too_late_or_of_another_size_is_counted_and_changes_nothing():
    episodes, counts = put_together(
        asked(1, ("a", "s", [0.0])),
        asked(2, ("b", "s", [1.0])),
        asked(3, ("c", "s", [2.0])),
        told("a", 1.0, time=4),
        told("a", 8.0, time=5),
        told("gone", 1.0),
        told("b", [1.0, 2.0]),
    )
    assert episodes == [([0.0, 1.0], [0], [1.0], "cut")]
    expected = {"told": 5, "told_twice": 1, "told_of_none": 1, "told_of_other_size": 2, "without_reward": 1}
    assert expected.items() <= counts.items()


def test_an_episode_whose_values_are_not_of_its_spaces_is_left_out_and_counted():
    episodes, counts = put_together(
        asked(1, ("a", "s", [0.0])),
        asked(2, ("b", "t", [3.0])),
        told("a", 1.0, terminated=True, next_obs=[1.0], action=[2]),
        told("b", 1.0, terminated=True, next_obs=[1.0]),
    )
    assert episodes == [([3.0, 1.0], [0], [1.0], "terminated")]
    assert counts["invalid"] == 1


# On the disk


SPACES = [
    (OBS, TWO),
    (Box((2, 3), "float64", -1e300, 1e300), Box((2,), "float32", -1.0, 1.0)),
    (Box((4, 4, 1), "uint8", 0.0, 255.0), Discrete(3)),
    (Box((3,), "bool", 0.0, 1.0), MultiBinary((2,))),
    (Masked(Dict((("x", OBS), ("y", Discrete(2)))), 3), Discrete(3)),
]


CARTPOLE = Header("cartpole", "1", OBS, TWO, "dqn", "ab")


def write(folder, lines, header=CARTPOLE, time=1, process=7):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / segment_name(time, process)
    path.write_bytes(header.to_line() + b"".join(line.to_line() for line in lines))
    return path


def episode_of_two():
    return [
        asked(1, ("a", "s", [0.0]), action=[1]),
        asked(2, ("b", "s", [1.0])),
        told("a", 0.5),
        told("b", 2.0, terminated=True, next_obs=[9.0]),
    ]


@pytest.mark.parametrize(("obs_space", "action_space"), SPACES, ids=str)
def test_every_line_comes_back_bit_for_bit(tmp_path, obs_space, action_space):
    rng = np.random.default_rng(0)
    obs = rng.integers(0, 2, (3, *obs_space.shape)).astype(obs_space.dtype)
    action = rng.integers(0, 2, (3, *action_space.shape)).astype(action_space.dtype)
    answers = Answers(5, ("a", "é"), (1, 2), (None, "s"), (True, False), obs, action)
    reward = np.array([0.1, -1e30], np.float32)
    end = np.array([False, True])
    became = Told(6, "é", reward, end, ~end & False, obs[2:], action[:2])
    header = Header("m", "3", obs_space, action_space)
    found, lines = read_segment(write(tmp_path, [answers, became], header))
    assert found == header
    for read, written in zip(lines, (answers, became), strict=True):
        for name, value in vars(written).items():
            other = getattr(read, name)
            if isinstance(value, np.ndarray):
                assert (other.dtype, other.shape, other.tobytes()) == (value.dtype, value.shape, value.tobytes())
            else:
                assert other == value


def test_a_recording_is_read_wherever_a_dataset_is_and_says_what_became_of_everything(tmp_path):
    write(tmp_path / "cartpole", episode_of_two()[:2])
    write(tmp_path / "cartpole", episode_of_two()[2:], time=2, process=8)  # told to another worker
    dataset = read_dataset(tmp_path)
    assert [plain(each) for each in dataset.episodes] == [([0.0, 1.0, 9.0], [1, 0], [0.5, 2.0], "terminated")]
    assert (dataset.name, dataset.env, dataset.facts["agent"]) == ("cartpole", None, "dqn")
    assert dataset.facts["versions"] == ["1"]
    assert dataset.facts["recorded"] == asdict(Counts(answered=2, learned_from=2, told=2))


def test_damaged_lines_and_a_last_line_that_was_cut_off_cost_only_themselves(tmp_path):
    path = write(tmp_path, episode_of_two())
    lines = path.read_bytes().splitlines(keepends=True)
    broken = [
        b"{\n",
        b"[]\n",
        b'{"time":1,"ids":["x"],"rows":[1],"sequences":[null],"starts":[false],"obs":"AAA=","action":""}\n',
        json.dumps({**json.loads(lines[2]), "rows": [2]}).encode() + b"\n",
        json.dumps({**json.loads(lines[4]), "next_obs": ""}).encode() + b"\n",
    ]
    path.write_bytes(b"".join([lines[0], *broken, *lines[1:], lines[2][:-9]]))
    dataset = read_recording(tmp_path)
    assert dataset.transitions == 2
    assert dataset.facts["recorded"]["damaged_lines"] == len(broken)


def test_a_recording_without_one_transition_says_what_it_holds(tmp_path):
    write(tmp_path, episode_of_two()[:2])
    with pytest.raises(RlabError, match=r"no transition to learn from \(2 answered, 1 without reward, 1 under way\)"):
        read_dataset(tmp_path)


def test_recordings_of_several_models_are_named_and_those_of_other_spaces_refused(tmp_path):
    write(tmp_path / "a", episode_of_two())
    write(tmp_path / "b", episode_of_two())
    with pytest.raises(UsageError, match=r"recordings of 2 models; name one of them: .*/a, .*/b"):
        recording_at(tmp_path)
    write(tmp_path / "a", [], Header("cartpole", "2", Box((2,), "float32", 0.0, 1.0), TWO), time=9)
    with pytest.raises(RlabError, match="versions 1 and 2 of cartpole, whose spaces differ"):
        read_recording(tmp_path / "a")


def test_a_segment_of_another_format_is_refused_and_an_empty_one_passed_over(tmp_path):
    path = write(tmp_path, [])
    path.write_bytes(b'{"format": 2}\n')
    with pytest.raises(RlabError, match="has format 2; this rlab reads format 1"):
        read_recording(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(RlabError, match="only empty segments"):
        read_recording(tmp_path)
    write(tmp_path, episode_of_two(), time=2)
    assert read_recording(tmp_path).transitions == 2


def test_a_recording_is_listed_and_can_be_written_as_a_dataset_that_stays(tmp_path):
    pytest.importorskip("minari")
    write(tmp_path / "live" / "cartpole", episode_of_two())
    written = merge_datasets([tmp_path / "live"], tmp_path / "fixed")
    assert written.report().startswith("recording cartpole: 2 answered, 2 learned from, 2 told\n")
    assert read_dataset(tmp_path / "fixed").transitions == 2
    rows = {row["path"].removeprefix(f"{tmp_path}/"): row for row in list_datasets(tmp_path)}
    assert sorted(rows) == ["fixed", "live/cartpole"]
    assert {row["state"] for row in rows.values()} == {"whole"}
    with pytest.raises(UsageError, match="two datasets or more, or the recording of a server"):
        merge_datasets([tmp_path / "fixed"], tmp_path / "again")
    with pytest.raises(UsageError, match=r"there is no dataset .*nowhere; `rlab list datasets` shows"):
        merge_datasets([tmp_path / "nowhere"], tmp_path / "again")


def test_counts_in_words_leave_out_what_did_not_happen():
    assert in_words(asdict(Counts(answered=3, told_of_none=1))) == "3 answered, 1 told of none"
    assert in_words(asdict(Counts())) == "nothing was asked"
