"""The live page: it follows runs under way, for browsers on this machine alone."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.jobs.live_report import LiveReport, live_report
from rlab.jobs.report_sources import find, tasks_of
from rlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def live(runs: Path, tmp_path: Path) -> Iterator[tuple[LiveReport, Path]]:
    """A live page of a folder with a copy of a run, whose last evaluation is still to come."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copytree(runs / "ppo", folder / "ppo")
    with live_report(folder, every=0.2) as page:
        yield page, folder / "ppo"


def asked(page: LiveReport, host: str | None = None, path: str = "/", method: str = "GET", **headers: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{page.port}")
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    answer.content = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def test_only_browsers_that_ask_for_this_machine_are_answered(live: tuple[LiveReport, Path]) -> None:
    page, _ = live
    assert asked(page).status == 200
    assert asked(page, f"localhost:{page.port}").status == 200
    for host in ("evil.example", f"evil.example:{page.port}", "127.0.0.1", "", f"127.0.0.1:{page.port + 1}"):
        assert asked(page, host).status == 403, host
    assert asked(page, path="/../../etc/passwd").status == 404
    assert asked(page, path="/report.html").status == 404
    assert asked(page, method="POST").status == 501
    head = asked(page, method="HEAD")
    assert (head.status, head.content) == (200, b"")
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", page.port))  # the other addresses of this machine do not lead here


def test_the_page_says_what_it_may_do_and_changes_only_with_the_runs(live: tuple[LiveReport, Path]) -> None:
    page, run = live
    first = asked(page)
    assert "connect-src 'self'" in first.headers["Content-Security-Policy"]
    assert first.headers["X-Content-Type-Options"] == "nosniff"
    assert first.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    tag = first.headers["ETag"]
    assert asked(page, If_None_Match=tag).status == 304
    log(run, 320)
    again = asked(page, If_None_Match=tag)
    assert again.status == 200
    assert again.headers["ETag"] != tag


def log(run: Path, time: int, value: float = 25.0) -> None:
    """What a run in progress writes: a row of metrics and an evaluation."""
    with (run / "eval.jsonl").open("a") as file:
        row = {"env_steps": time, "iqm": value, "returns": [[value], [value]], "lengths": [[25], [25]]}
        file.write(json.dumps(row) + "\n")


def test_a_browser_sees_a_run_learn_and_keeps_what_is_open(browser: Any, live: tuple[LiveReport, Path]) -> None:
    page, run = live
    browser.open(page.url)
    line = "document.querySelector('svg[id$=curves-large]').dataset.readings"
    assert "320" not in browser.value(line)
    browser.value("document.querySelector('details[id$=curves-numbers]').open = true")
    browser.value("document.querySelector('.all-seeds').click()")
    browser.value("globalThis.stayed = true")
    log(run, 320)
    browser.wait(f"{line}.includes('320 env steps')")
    assert browser.value("globalThis.stayed")  # the page was not loaded anew
    assert browser.value("document.querySelector('details[id$=curves-numbers]').open")
    assert browser.value("getComputedStyle(document.querySelector('.chart.large .seeds')).visibility") == "visible"
    shutil.copytree(run, run.parent / "second")  # a run that begins later
    browser.wait("document.querySelectorAll('.card').length === 2")
    assert set(browser.requests()) == {page.url}
    assert browser.complaints() == []
    page.close()
    browser.wait("document.querySelector('.live').textContent.includes('has stopped')")
    with pytest.raises(OSError, match="refused"):
        asked(page)


def test_a_run_under_way_shows_how_far_it_is(tmp_path: Path) -> None:
    seen: list[str] = []

    class Looker:
        def on_metrics(self, env_steps: int, metrics: Any) -> None:
            if env_steps == 256:
                seen.append(asked(page).content.decode())

    tiny: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "rollout_steps": 16, "log_every": 64}
    tiny |= {"env_steps": 512, "eval_every": 128, "eval_episodes": 1, "final_eval_episodes": 0}
    (tmp_path / "runs").mkdir()
    with live_report(tmp_path / "runs") as page:
        assert "Nothing to report yet" in asked(page).content.decode()
        rlab.train("ppo", "CartPole-v1", out=tmp_path / "runs" / "a", listeners=[Looker()], **tiny)
    (text,) = seen
    assert "256 of 512 env steps: in training" in text
    assert '<progress value="256" max="512"' in text


TINY: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "rollout_steps": 16, "log_every": 64}
TINY |= {"env_steps": 256, "eval_every": 64, "eval_episodes": 1, "final_eval_episodes": 2, "max_episode_steps": 20}


def test_a_run_whose_members_are_shared_out_shows_what_all_of_them_have_reached(tmp_path: Path) -> None:
    whole = rlab.train("ppo", "CartPole-v1", out=tmp_path / "runs" / "whole", seeds=2, **TINY).path
    for name in ("policy", "checkpoint", "best"):
        shutil.rmtree(whole / name)
    for name in ("eval.jsonl", "metrics.jsonl", "timing.jsonl", "result.json"):
        (whole / name).unlink()
    for seed in (1, 0):
        rlab.train("ppo", "CartPole-v1", out=whole / "parts" / str(1 - seed), seed=seed, **TINY)
    behind = whole / "parts" / "0" / "eval.jsonl"
    behind.write_text("".join(behind.read_text().splitlines(keepends=True)[:3]))  # the header and two evaluations
    with RunFolder.open(whole).held(), live_report(tmp_path / "runs") as page:
        (side,) = find_side(tmp_path / "runs")
        assert side.status == "running"
        assert side.curve is not None
        parts = [rlab.Run.open(whole / "parts" / name).curve()[1] for name in ("1", "0")]  # of seeds 0 and 1
        assert np.array_equal(side.curve[1], [parts[0][0, :2], parts[1][0]])
        assert "Learning curves" in asked(page).content.decode()


def find_side(folder: Path) -> Any:
    (task,) = tasks_of(find([folder]).evidence)
    return task.sides


def test_ctrl_c_stops_it_cleanly(runs: Path) -> None:
    words = [sys.executable, "-m", "rlab", "report", "--live", str(runs)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("live report: http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "stopped\n"
    assert process.returncode == 0


def test_a_port_that_is_taken_is_said(runs: Path) -> None:
    with live_report(runs) as page, pytest.raises(rlab.UsageError, match=f"cannot listen on port {page.port} of 127"):
        live_report(runs, port=page.port)


def test_a_port_that_no_machine_has_is_said_with_one_full_stop(runs: Path) -> None:
    with pytest.raises(rlab.UsageError, match=r"[^.]\. Leave --port out for a free one$"):
        live_report(runs, port=99999)
