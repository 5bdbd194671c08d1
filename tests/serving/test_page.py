"""The page of a server: looked at in a browser, in both themes and widths; and drift from a request to the page."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.errors import RlabError
from rlab.runs.observed import OBSERVED, load_observed
from rlab.serving.models import open_models, place_of

SEED = 3  # of the member that is served


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, policies: Path) -> Path:
    """A policy whose observations are on record, and one whose name is hostile."""
    folder = tmp_path_factory.mktemp("observed")
    shutil.copytree(policies / "cartpole", folder / "pole")
    rlab.evaluate(folder / "pole", episodes=100, record_observed=True)
    return folder / "pole"


@pytest.fixture(scope="module")
def drifting(observed: Path, policies: Path, served: Callable[..., Any], tmp_path_factory: Any) -> Iterator[Any]:
    """A server of two policies, of which one was asked about observations with one feature shifted."""
    with served(observed, policies / "arm", log=tmp_path_factory.mktemp("log") / "log") as running:
        record = load_observed(observed)[SEED]
        rng = np.random.default_rng(0)
        rows = record.quantiles[np.arange(4), rng.integers(0, record.quantiles.shape[1], (1000, 4))]
        rows[:, 1] += record.std[1]
        for first in range(0, 1000, 50):
            running.actions(rows[first : first + 50].astype(np.float32), "pole")
        yield running


def test_a_shift_of_one_standard_deviation_is_told_by_the_server_within_1000_requests(drifting: Any) -> None:
    pole = next(each for each in drifting.get("/status").json["models"] if each["name"] == "pole")
    assert [each["name"] for each in pole["drift"]["features"] if each["drifting"]] == ["obs[1]"]
    assert pole["drift"]["alarms"] == 1
    (line,) = [json.loads(line) for line in drifting.log_lines if "observations drift" in line]
    assert line["level"] == "warning"
    assert [each["feature"] for each in line["features"]] == ["obs[1]"]
    assert 'rlab_drift_features{model="pole",version="1"} 1.0' in drifting.get("/metrics").body.decode()


def test_what_has_no_record_says_how_to_make_one(drifting: Any) -> None:
    arm = next(each for each in drifting.get("/status").json["models"] if each["name"] == "arm")
    assert "rlab eval RUN --record-observed" in arm["why_not"]
    assert arm["drift"]["features"] == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390, 320])
def test_the_page_fits_every_width_in_both_themes_and_asks_its_server_alone(
    browser: Any, drifting: Any, width: int, dark: bool
) -> None:
    browser.open(f"{drifting.url}/", width, 800, dark)
    browser.wait("document.querySelectorAll('.feature').length === 4")
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []
    assert all(url.startswith(f"{drifting.url}/") for url in browser.requests() if not url.startswith("data:"))
    text = browser.value("document.querySelector('.drifting h4').textContent")
    assert text == "obs[1]mean has moved"
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") != dark
    heights = browser.value(
        "[...document.querySelectorAll('.drifting rect')].map((bar) => Number(bar.getAttribute('height')))"
    )
    assert len(heights) == 16
    assert max(heights) == pytest.approx(64)  # pixels of the highest bar


def test_a_person_asks_a_policy_and_reads_its_answer_or_what_is_wrong(
    browser: Any, drifting: Any, observed: Path
) -> None:
    browser.open(f"{drifting.url}/", 1200, 900)
    browser.wait("document.querySelectorAll('form').length === 2")
    policy = rlab.load(observed, SEED)

    pole = "document.querySelector('[data-model=\"pole@1\"]')"

    def asked(text: str) -> str:
        browser.value(f"{pole}.querySelector('.answer').textContent = ''")
        browser.value(f"{pole}.querySelector('textarea').value = {json.dumps(text)}")
        browser.value(f"{pole}.querySelector('button').click()")
        browser.wait(f"{pole}.querySelector('.answer').textContent !== ''")
        return str(browser.value(f"{pole}.querySelector('.answer').textContent"))

    one, two = np.array([0.1, -0.2, 0.05, 0.3], np.float32), np.array([-2.0, 0.5, -0.1, 0.0], np.float32)
    assert asked(json.dumps(one.tolist())).startswith(f"action: [{policy(one)}]\n")
    assert asked(json.dumps([one.tolist(), two.tolist()])).startswith(f"action: [{policy(one)},{policy(two)}]\n")
    assert asked("[1, 2]").startswith("the data of the input obs")
    assert asked("hello").startswith("an observation is written as JSON")
    assert browser.value("document.querySelectorAll('.answer.refused').length") == 1


def test_the_page_forbids_what_it_does_not_do(drifting: Any) -> None:
    answer = drifting.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    script = drifting.get("/page.js").body.decode()
    assert "innerHTML" not in script
    assert drifting.get("/page.css").headers["content-type"] == "text/css; charset=utf-8"


def test_a_record_of_other_observations_is_refused(observed: Path, tmp_path: Path) -> None:
    shutil.copytree(observed, tmp_path / "edited")
    path = tmp_path / "edited" / OBSERVED
    path.write_text(path.read_text().replace("obs[0]", "<img src=x onerror=alert(1)>"))
    with pytest.raises(RlabError, match=r"observed.json is not of observations Box\(\(4,\), float32\). Was it edited"):
        open_models([place_of(str(tmp_path / "edited"))])
