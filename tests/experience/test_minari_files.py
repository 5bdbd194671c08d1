"""What is written as a Minari dataset comes back bit for bit, and other users of Minari find what the env gave."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlab.errors import RlabError, UsageError
from rlab.experience.dataset import Dataset, Episode, action_field
from rlab.experience.minari_files import check_can_write, list_datasets, read_dataset, write_dataset
from rlab.networks.spaces import Box, Dict, Discrete, Leaf, Masked, MultiBinary, MultiDiscrete, Tuple, leaves

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

NUMBERS = Box((3,), "float32", (-np.inf, -1.0, 0.0), (np.inf, 1.0, 4.5))
OBSERVATIONS = [
    NUMBERS,
    Box((2, 3), "float64", -1e300, 1e300),
    Box((40, 36, 3), "uint8", 0.0, 255.0),  # large enough for Minari to make JPEGs of it
    Box((3, 3, 2), "bool", 0.0, 1.0),
    Box((2,), "int64", float(-(2**63)), float(2**63)),
    Discrete(4, start=-2),
    MultiDiscrete((2, 3, 4, 5), (1, 0, -1, 7), (2, 2)),
    MultiBinary((5,)),
    Dict((("zeal", NUMBERS), ("age", Discrete(3)), ("deep", Tuple((MultiBinary((2, 2)), Discrete(2, start=3)))))),
    Tuple((Discrete(3, start=1), Box((2,), "uint8", 0.0, 255.0))),
    Dict((("x", Dict((("action_mask", MultiBinary((2,))), ("y", NUMBERS)))),)),  # deeper, it is a part like any other
    Masked(NUMBERS, 3),
    Masked(Discrete(4), 3),
    Masked(Dict((("b", NUMBERS), ("a", Discrete(2)))), 3),
]
ACTIONS = [
    Discrete(3, start=5),
    Box((2,), "float32", -2.0, 2.0),
    Box((1,), "float64", -0.5, 0.5),
    MultiDiscrete((2, 3), (5, -1), (2,)),
    MultiBinary((4,)),
]


def drawn(leaf, rng, lead):
    shape = (lead, *leaf.shape)
    if isinstance(leaf, Box) and leaf.dtype.startswith("float"):
        values = rng.uniform(0.0, 0.5, shape)
    elif isinstance(leaf, Box):
        values = rng.integers(0, 2 if leaf.dtype == "bool" else 200, shape)
    elif isinstance(leaf, MultiBinary):
        values = rng.integers(0, 2, shape)
    else:
        options = leaf.n if isinstance(leaf, Discrete) else np.array(leaf.nvec).reshape(leaf.shape)
        values = rng.integers(0, options, shape) + np.array(leaf.start).reshape(leaf.shape)
    return values.astype(leaf.dtype)


def some_episodes(obs_space, action_space, lengths=(3, 1, 4), seed=0):
    """Random episodes; one terminates, one is truncated, one is cut."""
    rng = np.random.default_rng(seed)
    episodes = []
    for k, steps in enumerate(lengths):
        parts = [drawn(leaf, rng, steps + 1) for leaf in leaves(obs_space)]
        obs = parts[0]
        if not isinstance(obs_space, Leaf):
            obs = np.concatenate([part.reshape(steps + 1, -1).astype(obs_space.dtype) for part in parts], axis=-1)
        field = action_field(action_space)
        counted = rng.integers(0, 2, (steps, *field.shape)) * (0.5 if field.dtype == "float32" else 1)
        if isinstance(obs_space, Masked):
            obs[:, -obs_space.size] = 1
            counted[:] = 0  # the action that is always allowed
        reward = rng.normal(size=steps).astype(np.float32)
        episodes.append(Episode(obs, counted.astype(field.dtype), reward, k == 0, k == 1, seed=100 + k))
    return tuple(episodes)


def make(obs_space=NUMBERS, action_space=ACTIONS[0], env=None, facts=None, **others):
    return Dataset("x", obs_space, action_space, some_episodes(obs_space, action_space, **others), env, facts or {})


def assert_same(a, b):
    assert (a.obs_space, a.action_space, a.env, a.facts) == (b.obs_space, b.action_space, b.env, b.facts)
    assert len(a.episodes) == len(b.episodes)
    for one, other in zip(a.episodes, b.episodes, strict=True):
        for name in ("obs", "action", "reward"):
            left, right = getattr(one, name), getattr(other, name)
            assert (left.dtype, left.tobytes()) == (right.dtype, right.tobytes())
        assert (one.terminated, one.truncated, one.seed) == (other.terminated, other.truncated, other.seed)


CASES = [(obs, ACTIONS[0]) for obs in OBSERVATIONS] + [(NUMBERS, action) for action in ACTIONS[1:]]


@pytest.mark.parametrize(("obs_space", "action_space"), CASES, ids=str)
def test_every_space_comes_back_bit_for_bit_and_minari_sees_values_of_its_space(tmp_path, obs_space, action_space):
    data = make(obs_space, action_space, env={"env_id": "World-v0"}, facts={"agent": "dqn", "noise": 0.1})
    write_dataset(tmp_path / "d", data)
    assert_same(read_dataset(tmp_path / "d"), data)
    theirs = minari.MinariDataset(tmp_path / "d" / "data")
    episode = theirs[2]
    assert (len(theirs), theirs.total_steps, len(episode.rewards)) == (3, 8, 4)

    def at(values, t):
        if isinstance(values, dict):
            return {name: at(value, t) for name, value in values.items()}
        return tuple(at(value, t) for value in values) if isinstance(values, tuple) else values[t]

    assert all(at(episode.observations, t) in theirs.observation_space for t in range(5))
    assert all(at(episode.actions, t) in theirs.action_space for t in range(4))


def test_actions_are_stored_as_the_env_counts_them(tmp_path):
    data = make()
    write_dataset(tmp_path / "d", data)
    stored = minari.MinariDataset(tmp_path / "d" / "data")[0].actions
    assert stored.tolist() == (data.episodes[0].action + 5).tolist()


def test_a_mask_is_in_the_infos_or_in_the_dict_that_it_came_in(tmp_path):
    beside, inside = make(OBSERVATIONS[-3]), make(OBSERVATIONS[-1])
    write_dataset(tmp_path / "beside", beside)
    write_dataset(tmp_path / "inside", inside)
    one, other = (minari.MinariDataset(tmp_path / name / "data")[0] for name in ("beside", "inside"))
    assert one.infos["action_mask"].tolist() == beside.episodes[0].obs[:, -3:].astype(int).tolist()
    assert other.observations["action_mask"].tolist() == inside.episodes[0].obs[:, -3:].astype(int).tolist()
    assert set(other.observations) == {"a", "b", "action_mask"}


@pytest.mark.filterwarnings("ignore::UserWarning")  # it would like to know the author and more
def test_a_dataset_that_minari_wrote_itself_is_read(tmp_path, monkeypatch):
    spaces = pytest.importorskip("gymnasium").spaces
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    seen = {"goal": np.ones((3, 1), np.float64), "at": np.array([[0.0], [1.0], [2.0]])}
    buffer = minari.data_collector.episode_buffer.EpisodeBuffer(
        observations=seen, actions=[2, 3], rewards=[0.5, 1.5], terminations=[False, False], truncations=[False, True]
    )
    part = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    seen_space = spaces.Dict({"goal": part, "at": part})
    minari.create_dataset_from_buffers(
        "theirs/maze-v3", [buffer], observation_space=seen_space, action_space=spaces.Discrete(3, start=2)
    )
    for name in ("theirs/maze-v3", tmp_path / "theirs/maze-v3", tmp_path / "theirs/maze-v3/data"):
        data = read_dataset(name)
        assert data.name == "theirs/maze-v3"
        (episode,) = data.episodes
        assert episode.obs.tolist() == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]  # Gymnasium sorts: at, goal
        assert (episode.action.tolist(), episode.reward.tolist()) == ([0, 1], [0.5, 1.5])
        assert (episode.terminated, episode.truncated, episode.seed) == (False, True, None)


def test_under_minari_s_root_the_folder_is_the_id_and_elsewhere_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    assert write_dataset(tmp_path / "root" / "mine" / "cart-v2", make()) == "mine/cart-v2"
    assert minari.load_dataset("mine/cart-v2").total_episodes == 3
    assert read_dataset("mine/cart-v2").name == "mine/cart-v2"
    assert write_dataset(tmp_path / "some.where" / "good ones!", make()) == "good-ones-v0"
    assert write_dataset(tmp_path / "some.where" / "v0", make()) == "v0-v0"
    assert read_dataset(tmp_path / "some.where" / "v0").name == "v0-v0"


def test_the_files_say_nothing_of_where_they_were_written(tmp_path):
    write_dataset(tmp_path / "d", make(env={"env_id": "World-v0"}))
    for path in (tmp_path / "d" / "data").iterdir():
        for word in (tmp_path.name, str(tmp_path), str(Path.home()), str(Path.cwd()), ".tmp-"):
            assert word.encode() not in path.read_bytes()


def test_nothing_is_touched_that_is_there_already(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "full", "not empty"),
        (tmp_path / "full" / "file", "is a file"),
        (tmp_path / "full" / "file" / "d", "is not a folder that can be written"),
    ):
        with pytest.raises(UsageError, match=message):
            check_can_write(path, NUMBERS, Discrete(2))
        with pytest.raises(UsageError, match=message):
            write_dataset(path, make())
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
    write_dataset(tmp_path / "empty", make())
    assert len(read_dataset(tmp_path / "empty").episodes) == 3


@pytest.mark.parametrize("nest", [lambda part: part, lambda part: Tuple((part,)), lambda part: Masked(part, 3)])
def test_a_part_whose_name_no_file_keeps_is_refused_before_anything_is_played(tmp_path, nest):
    with pytest.raises(UsageError) as caught:
        check_can_write(tmp_path / "data", nest(Dict((("arm/left", NUMBERS),))), Discrete(3))
    problem = "a dataset cannot store an observation part with the name 'arm/left': in its file / separates names. "
    assert str(caught.value) == problem + "Rename the part in the env."


def edited(path, key, values):
    with h5py.File(path / "data" / "main_data.hdf5", "r+") as file:
        del file["episode_1"][key]
        file["episode_1"][key] = np.array(values)


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("observations", [0, 7, 1], "episode 1 has an observation outside of Discrete(n=3, start=0) at step 1: 7."),
        ("observations", [0, 1.5, 1], "1: its observations are Discrete(n=3, start=0), which 1.5 is not one of"),
        ("actions", [0.0, 0.5], "episode 1: its actions are Discrete(n=2, start=0), which 0.5 is not one of"),
        ("rewards", [0.0, 1e39], "episode 1 has a reward of 1e+39 at step 1, which float32 does not hold."),
        ("rewards", [0.0, np.nan], "episode 1 has rewards that are not finite."),
        ("actions", [0.0, 1.0], None),
    ],
)
def test_values_that_no_space_of_a_dataset_has_are_refused(tmp_path, key, values, said):
    episodes = some_episodes(Discrete(3), Discrete(2), lengths=(2, 2))
    write_dataset(tmp_path / "data", Dataset("mine", Discrete(3), Discrete(2), episodes))
    edited(tmp_path / "data", key, values)
    if said is None:
        assert read_dataset(tmp_path / "data").episodes[1].action.tolist() == values
        return
    with pytest.raises(RlabError) as caught:
        read_dataset(tmp_path / "data")
    assert str(caught.value).endswith(said)


def test_pixels_beyond_the_bounds_of_their_space_are_refused():
    space = Box((2,), "uint8", 0.0, 3.0)
    (good,) = some_episodes(Discrete(2), Discrete(2), lengths=(1,))
    with pytest.raises(RlabError, match=r"an observation outside of Box\(\(2,\), uint8, from 0 to 3\) at step 1: 9\."):
        Dataset("mine", space, Discrete(2), (replace(good, obs=np.array([[0, 1], [3, 9]], np.uint8)),))


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_dataset(tmp_path / "d", make(facts={"agent": object()}))  # found out when the episodes are written
    assert list(tmp_path.iterdir()) == []


def edit(path, **changes):
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | changes))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path, **changes):
    with h5py.File(path, "a") as file:
        for name, value in changes.items():
            del file["episode_1"][name]
            if value is not None:
                file["episode_1"][name] = value


TEXT = json.dumps({"type": "Text", "max_length": 3, "min_length": 0, "charset": "ab"})
DAMAGE = {
    "data cut off": (lambda m, d: cut(d), "cannot be read"),
    "metadata cut off": (lambda m, d: cut(m), "is not complete JSON"),
    "data missing": (lambda m, d: d.unlink(), "is missing"),
    "metadata missing": (lambda m, d: m.unlink(), "has no metadata.json: the dataset is incomplete"),
    "no episodes": (lambda m, d: edit(m, total_episodes=0), "has no episodes"),
    "episodes missing": (lambda m, d: edit(m, total_episodes=9), "it has 3 episodes, and 9 are declared"),
    "no actions": (lambda m, d: change(d, actions=None), "cannot be read.*actions"),
    "too few actions": (lambda m, d: change(d, actions=np.zeros(0, int)), "episode 1 has 0 actions for 1 rewards"),
    "too few observations": (lambda m, d: change(d, observations=np.zeros((1, 3), np.float32)), "episode 1 has observ"),
    "another shape": (lambda m, d: change(d, observations=np.zeros((2, 4), np.float32)), r"episode 1: .*\(2, 4\)"),
    "NaN": (lambda m, d: change(d, rewards=np.full(1, np.nan)), "episode 1 has rewards that are not finite"),
    "no such action": (lambda m, d: change(d, actions=np.array([4])), "episode 1 has an action outside"),
    "text": (lambda m, d: edit(m, observation_space=TEXT), "its observations are or contain a Text space"),
    "actions in parts": (
        lambda m, d: edit(m, action_space='{"type": "Tuple", "subspaces": [{"type": "MultiBinary", "n": 2}]}'),
        "are not supported; use Box, Discrete",
    ),
    "a newer Minari": (lambda m, d: edit(m, minari_version="99.0"), "does not support"),
    "no JSON object": (lambda m, d: m.write_text("[1]"), "must hold an object"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_broken_is_said_in_one_line_and_listed_with_the_reason(tmp_path, name):
    damage, message = DAMAGE[name]
    write_dataset(tmp_path / "d", make())
    damage(tmp_path / "d" / "data" / "metadata.json", tmp_path / "d" / "data" / "main_data.hdf5")
    with pytest.raises(RlabError, match=message) as caught:
        read_dataset(tmp_path / "d")
    assert "\n" not in str(caught.value)
    (row,) = list_datasets(tmp_path)
    assert row["state"] == "broken"
    assert row["path"] == str(tmp_path / "d")
    assert row["reason"]


def test_an_episode_that_goes_on_after_its_end_is_refused(tmp_path):
    write_dataset(tmp_path / "d", make(lengths=(3, 3)))
    change(tmp_path / "d" / "data" / "main_data.hdf5", terminations=np.array([False, True, False]))
    with pytest.raises(RlabError, match="episode 1 terminates at step 1 of 3 and continues"):
        read_dataset(tmp_path / "d")


def test_an_episode_that_goes_on_after_a_time_limit_is_refused_likewise(tmp_path):
    """Rewards 0 0 0 1 1 1 with limits after steps 2 and 5: read as one episode, step 0 would return 0.21875 of the next
    one's rewards (gamma 0.5), and its own are 0."""
    write_dataset(tmp_path / "d", make(lengths=(3, 6)))
    limits = np.array([False, False, True, False, False, True])
    change(tmp_path / "d" / "data" / "main_data.hdf5", truncations=limits, terminations=np.zeros(6, bool))
    with pytest.raises(RlabError, match=r"episode 1 is truncated at step 2 of 6 and continues\. Split it there"):
        read_dataset(tmp_path / "d")


@pytest.mark.parametrize("lengths", [(3, 4), (2, 1)])
def test_what_is_stored_as_columns_is_read_as_the_rows_that_it_is(tmp_path, lengths):
    space = Dict((("place", Discrete(5, start=-1)), ("x", NUMBERS)))
    for obs_space in (Discrete(4, start=-2), space):
        dataset = make(obs_space, Discrete(3, start=5), lengths=lengths)
        folder = tmp_path / str(obs_space)
        write_dataset(folder, dataset)
        with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
            group = file["episode_1"]
            names = ["actions", "rewards", "terminations", "truncations"]
            names.append("observations/place" if obs_space is space else "observations")
            for name in names:
                values = group[name][()]
                del group[name]
                group.create_dataset(name, data=values[:, None])
        for read, written in zip(read_dataset(folder).episodes, dataset.episodes, strict=True):
            for one, other in ((read.obs, written.obs), (read.action, written.action), (read.reward, written.reward)):
                assert one.dtype == other.dtype
                assert np.array_equal(one, other)
            assert (read.terminated, read.truncated) == (written.terminated, written.truncated)


def test_a_mask_that_one_episode_lacks_is_missed(tmp_path):
    write_dataset(tmp_path / "d", make(Masked(NUMBERS, 3)))
    change(tmp_path / "d" / "data" / "main_data.hdf5", infos=None)
    with pytest.raises(RlabError, match="episode 1 has no action_mask in its infos"):
        read_dataset(tmp_path / "d")


@pytest.mark.parametrize("name", ["nowhere", "D4RL/door/human-v2", "."])
def test_what_is_no_dataset_is_refused_without_a_download(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    with pytest.raises(UsageError, match=r"not a Minari dataset|neither a folder nor a Minari id"):
        read_dataset(name)
    assert list(tmp_path.iterdir()) == []


def test_without_minari_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for call in (lambda: read_dataset("d"), lambda: write_dataset(tmp_path / "d", make()), lambda: list_datasets(".")):
        with pytest.raises(UsageError, match=r'pip install "rlab-agents\[minari\]"'):
            call()


def test_datasets_are_listed_by_path_with_their_summary(tmp_path):
    write_dataset(tmp_path / "b", make(env={"env_id": "World-v0"}, facts={"agent": "dqn"}))
    write_dataset(tmp_path / "a" / "deep", make())
    (tmp_path / ".tmp-1" / "data").mkdir(parents=True)
    (tmp_path / ".tmp-1" / "data" / "metadata.json").write_text("")
    first, second = list_datasets(tmp_path)
    assert [row["path"] for row in (first, second)] == [str(tmp_path / "a" / "deep"), str(tmp_path / "b")]
    assert (second["env_id"], second["agent"], second["episodes"], second["state"]) == ("World-v0", "dqn", 3, "whole")
    assert second["reason"] is None
    assert first.keys() == second.keys()
    assert list_datasets(tmp_path / "nowhere") == []
