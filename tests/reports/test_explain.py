"""`rlab explain`: a page and numbers, from the command line and from Python."""

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.errors import UsageError
from rlab.evaluation.explanation.pictures import overlay, png
from rlab.evaluation.report.numbers import plain
from rlab.jobs.explain import Explained

SMALL = ["--episodes", "3", "--states", "6", "--background", "3"]


@pytest.fixture(scope="module")
def explained(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Explained:
    pytest.importorskip("pygame")
    out = tmp_path_factory.mktemp("explained") / "why"
    return rlab.explain(runs / "ppo", out=out, episodes=3, states=6, background=3)


def test_the_command_writes_a_page_and_the_numbers_and_says_the_same_as_json(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "why"
    words = ["explain", str(runs / "ppo"), "--out", str(out), "--member", "1", "--no-pictures", *SMALL]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((out / "explanation.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["explanation.html", "explanation.json"]
    assert (said["format"], said["seed"], said["explained"], said["unit"]) == (1, 1, "log odds", "nats")
    assert said["features"] == ["cart position", "cart velocity", "pole angle", "pole angular velocity"]
    values = np.array(said["attributions"]["Shapley values"])  # [states, features, parts]
    states = said["states"]
    assert values.shape == (6, 4, 1)
    gap = values.sum(axis=1) - (np.array(states["value"]) - np.array(states["base"]))
    assert np.abs(gap).max() < 1e-6
    assert said["strip"]["steps"] == len(said["strip"]["reward"]) == said["strip"]["return"]  # CartPole pays 1 a step
    assert {each["method"] for each in said["deletion"]} == set(said["attributions"])
    assert main(words) == 0  # the folder holds an explanation, which is replaced
    shown = capsys.readouterr().out
    assert shown.startswith("The action rests most on ")
    assert f"page: {out / 'explanation.html'}" in shown
    command = f"rlab explain {runs / 'ppo'} --out {out} --member 1 --episodes 3 --states 6 --background 3 --no-pictures"
    assert command in (out / "explanation.html").read_text()


def test_the_same_policy_is_explained_alike_every_time(runs: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"episodes": 2, "states": 3, "background": 2, "pictures": False}
    found = [rlab.explain(runs / "a2c", out=tmp_path / name, **settings).to_json() for name in ("a", "b")]
    assert found[0] == found[1]


def test_a_folder_that_holds_something_else_is_left_alone_and_numbers_must_be_one_or_more(
    runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something that is not an explanation; nothing in it was touched"):
        rlab.explain(runs / "ppo", out=tmp_path)
    with pytest.raises(UsageError, match=r"states 0 must be 1 or more\."):
        rlab.explain(runs / "ppo", out=tmp_path / "new", states=0)
    with pytest.raises(UsageError, match="--features has 2 names; the observation has 4: obs"):
        rlab.explain(runs / "ppo", out=tmp_path / "new", episodes=1, pictures=False, features=("x", "y"))
    with pytest.raises(UsageError, match="--actions has 3 names; the action has 2 options"):
        rlab.explain(runs / "ppo", out=tmp_path / "new", actions=("a", "b", "c"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390, 320])
def test_the_page_loads_nothing_and_fits_every_width(
    browser: Any, explained: Explained, width: int, dark: bool
) -> None:
    address = explained.page.absolute().as_uri()
    browser.open(address, width, 800, dark)
    assert [each for each in browser.requests() if not each.startswith("data:")] == [address]
    assert browser.complaints() == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    sizes = browser.value("[...document.querySelectorAll('.chart')].map((svg) => svg.getBoundingClientRect().width)")
    assert sum(size > 0 for size in sizes) == len(sizes) / 2  # of each chart the one for this width
    pictures = browser.value("[...document.querySelectorAll('.strip img')].map((each) => each.naturalWidth)")
    assert pictures
    assert min(pictures) > 100


def test_values_of_a_map_are_read_with_the_arrow_keys(browser: Any, explained: Explained) -> None:
    browser.open(explained.page.absolute().as_uri())
    browser.value("document.querySelector('svg[id$=map-0-large]').focus()")
    browser.press("Home")
    assert "greedy action: push" in browser.value("document.querySelector('.tip').textContent")


def test_the_page_says_what_the_explained_episodes_returned(runs: Path, explained: Explained) -> None:
    judged = rlab.evaluate(runs / "ppo", member=0, episodes=3)
    assert f"which returned {plain(float(judged.returns.mean()))} on average." in explained.page.read_text()


def test_names_of_anybody_are_shown_as_they_are(browser: Any, runs: Path, tmp_path: Path) -> None:
    hostile = "</style><img src=x onerror='globalThis.hacked = 1'>"
    names = (hostile, '"><svg onload=alert(1)>', "& $x^2$", "\u202e\x1b[31m")
    done = rlab.explain(runs / "ppo", out=tmp_path / "why", episodes=2, states=3, features=names, pictures=False)
    text = done.page.read_text()
    assert "<img src=x" not in text
    assert "<svg onload" not in text
    browser.open(done.page.absolute().as_uri())
    assert browser.value("globalThis.hacked") is None
    assert hostile in browser.value("document.body.textContent")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]


def test_no_two_elements_of_the_page_have_one_id(explained: Explained) -> None:
    tags = Tags()
    tags.feed(explained.page.read_text())
    assert len(tags.ids) == len(set(tags.ids)) > 10


def pixels_of(data: bytes) -> np.ndarray:
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(data)))


def test_a_png_of_ours_is_read_by_others() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (pixels_of(png(picture)) == picture).all()


def test_patches_that_speak_for_the_choice_are_blue_and_those_against_it_orange() -> None:
    image = np.full((8, 8, 2), 100)
    shares = np.zeros((4, 4))
    shares[0, 0], shares[3, 3] = 2.0, -2.0
    drawn = overlay(image, shares).astype(int)
    assert drawn.shape == (240, 240, 3)
    assert drawn[0, 0, 2] > drawn[0, 0, 0] + 50
    assert drawn[-1, -1, 0] > drawn[-1, -1, 2] + 50
    assert len(set(drawn[120, 120])) == 1


@pytest.fixture
def own_env() -> Any:
    import gymnasium as gym

    class Rooms(gym.Env):  # type: ignore[type-arg]
        """A dict of an image, numbers and a choice; it cannot be drawn."""

        observation_space = gym.spaces.Dict(
            {
                "camera": gym.spaces.Box(0, 255, (8, 8, 1), np.uint8),
                "arm": gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
                "room": gym.spaces.Discrete(3),
            }
        )
        action_space = gym.spaces.MultiDiscrete([2, 3])

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            self.t = 0
            return self._obs(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.t += 1
            return self._obs(), float(action[0]), False, self.t == 6, {}

        def _obs(self) -> dict[str, Any]:
            return {
                "camera": self.np_random.integers(0, 256, (8, 8, 1), dtype=np.uint8),
                "arm": self.np_random.uniform(-1, 1, 2).astype(np.float32),
                "room": int(self.np_random.integers(3)),
            }

    return Rooms


def test_a_dict_with_an_image_is_explained_by_patches_numbers_and_choices(own_env: Any, tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"experiment": "none", "num_envs": 2, "hidden": (8,), "env_steps": 64, "eval_every": 0}
    run = rlab.train("ppo", own_env, out=tmp_path / "run", rollout_steps=16, final_eval_episodes=1, **tiny)
    done = rlab.explain(run.path, out=tmp_path / "why", env=own_env, episodes=2, states=2, background=2, orders=4)
    names = done.explanation.question.players.names
    assert names[:2] == ("arm[0]", "arm[1]")
    assert names[2] == "camera, rows 0, columns 0"
    assert names[-1] == "room"
    assert not done.explanation.exact
    assert done.explanation.map is not None
    assert set(done.explanation.map.players) == {0, 1}
    assert len(done.notes) == 1
    assert "has no pictures" in done.notes[0]
    text = done.page.read_text()
    assert "has no pictures" in text
    assert "What matters: choice 1" in text
