"""A slice of `rlab.experiments.reliability.env_failures`, which tries every way to fail in every place."""

import os
import signal
import sys
import time

import pytest

from rlab.experiments.reliability.env_failures import (
    ENV,
    KINDS,
    PLACES,
    TRAIN,
    Case,
    cases,
    orphans,
    play,
    started,
    train,
)

LIMIT = 3.0  # seconds: on a loaded machine an env that does not hang may take a tenth of it

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, which is on Linux alone")


def test_every_kind_fails_in_every_place_in_training_and_judging():
    tried = {(case.kind, case.place, case.mode) for case in cases()}
    assert len(cases()) == 132
    assert {(kind, place) for kind, place, mode in tried if mode == "async"} == {(k, p) for k in KINDS for p in PLACES}
    assert len(tried) == len(KINDS) * len(PLACES) + 2 * (len(KINDS) - 1) * len(PLACES)  # all but SIGKILL of oneself


@pytest.mark.parametrize(
    ("case", "exit_code"),
    [
        (Case("hang in C", "step", "sync"), 1),
        (Case("hang in C", "reset", "async", "spawn"), 1),
        pytest.param(Case("os._exit", "constructor", "judging"), 2, marks=pytest.mark.prove),
    ],
    ids=str,
)
def test_a_program_names_what_failed_and_leaves_no_process(case, exit_code, tmp_path):
    if case.mode == "judging":
        train(tmp_path)
    outcome = play(case, tmp_path, LIMIT)
    assert outcome.named_after is not None
    assert (outcome.exit_code, outcome.left) == (exit_code, 0)


@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_a_worker_that_hangs_in_c_does_not_outlive_a_parent_that_is_killed(start, tmp_path):
    assert orphans("hang in C", start, tmp_path) == 0


def test_sigterm_while_an_env_hangs_ends_the_run_at_the_limit_with_a_save(tmp_path):
    words = [*TRAIN, "--env-timeout", "2", "--vector", "sync", "--final-eval-episodes", "0"]
    (tmp_path / "failing.py").write_text(ENV)
    program = started(tmp_path, "fork", words, Case("sleep", "step", "sync"))
    while not (tmp_path / "failed").exists():
        time.sleep(0.05)
    for _ in range(3):
        program.send_signal(signal.SIGTERM)
    told = program.communicate(timeout=120)[1]  # it would be ignored for ever
    assert "failing:Failing failed in env 1 of seed 0 at vector step 3: no answer for 2 s (failing.py:" in told
    assert program.returncode == 1
    assert os.path.exists(tmp_path / "run" / "policy")
