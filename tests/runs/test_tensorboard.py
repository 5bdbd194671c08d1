"""What TensorBoard makes of the events, as its own plugins read them over a folder of runs."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups
from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

from rlab.runs.glossary import GLOSSARY
from rlab.runs.logs import MetricsLog
from rlab.runs.reading import drawn

NAN = float("nan")
SETTINGS = {"gamma": 0.9, "dueling": True, "hidden": (64, 64)}


def summarise(values):
    return (float(np.median(values)), *((values.min(), values.max()) if len(values) > 1 else (NAN, NAN)))


def write_run(folder, seeds, compared, judged, resume_at=None):
    folder.mkdir(exist_ok=True)
    log = MetricsLog(folder, seeds, iqm=np.median, summarise=summarise, resume_at=resume_at)
    log.on_start(SETTINGS, {"gamma": "command line"}, compared)
    trained = {"train/episode_return": np.arange(len(seeds), dtype=float), "explore/epsilon": np.float64(0.5)}
    log.on_metrics(500, trained)
    for when, returns in ((500, 10.0), (1000, 20.0)):
        log.on_evaluation(when, np.full((len(seeds), 2), returns), np.ones((len(seeds), 2), int))
    if judged:
        log.on_final_evaluation(1000, np.full((len(seeds), 2), 25.0), np.ones((len(seeds), 2), int))
    log.close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """TensorBoard's data over three runs: two agents, one and three seeds, judged and not."""
    logdir = tmp_path_factory.mktemp("runs")
    write_run(logdir / "dqn1", [7], {"Agent": "dqn", "Env": "CartPole-v1", "seeds": 1, "gamma": 0.9}, judged=True)
    write_run(logdir / "ppo3", [7, 8, 9], {"Agent": "ppo", "Env": "CartPole-v1", "seeds": 3, "clip": 0.1}, judged=False)
    write_run(logdir / "dqn3", [0, 1, 2], {"Agent": "dqn", "Env": "CartPole-v1", "seeds": 3}, judged=True)
    multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 100}).AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    return TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(logdir)), logdir=str(logdir))


def test_runs_are_called_by_their_folders_with_no_word_between(shown):
    found = {run.run_name for run in shown.data_provider.list_runs(RequestContext(), experiment_id="")}
    seeds = {*(f"ppo3/seed-{seed}" for seed in (7, 8, 9)), *(f"dqn3/seed-{seed}" for seed in (0, 1, 2))}
    assert found == {"dqn1", "ppo3", "dqn3", "dqn1/hparams", "ppo3/hparams", "dqn3/hparams", *seeds}


def test_the_hparams_tab_has_the_columns_of_every_agent_and_one_number_a_run(shown):
    context = backend_context.Context(shown)
    experiment = get_experiment.Handler(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()
    # What differs comes first, then by name: capitals before the settings.
    assert [info.name for info in experiment.hparam_infos] == ["Agent", "seeds", "Env", "clip", "gamma"]
    assert [(info.name.tag, info.name.group) for info in experiment.metric_infos] == [("return", "")]
    every = list(range(4))  # of unknown, success, failure, running
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=every, aggregation_type=api_pb2.AGGREGATION_AVG, start_index=0, slice_size=10
    )
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    told = {
        group.name: (group.hparams["Agent"].string_value, [value.value for value in group.metric_values])
        for group in groups
    }
    # the final return where there is one, else the last evaluation
    assert told == {"dqn1/hparams": ("dqn", [25.0]), "dqn3/hparams": ("dqn", [25.0]), "ppo3/hparams": ("ppo", [20.0])}
    (ppo,) = (group for group in groups if group.name == "ppo3/hparams")
    assert ppo.hparams["clip"].number_value == 0.1


def test_custom_scalars_shows_the_return_of_one_seed_and_the_interval_of_several(shown):
    layout = CustomScalarsPlugin(shown).layout_impl(RequestContext(), "")
    (category,) = (json.loads(layout) if isinstance(layout, str) else layout)["category"]
    titles = [chart["title"] for chart in category["chart"]]
    assert titles == [
        "eval/return: greedy episodes during training",
        "train/episode_return: the episodes that are learned from",
        "eval/return: IQM over training seeds, with its 95 % interval",
    ]
    (series,) = category["chart"][2]["margin"]["series"]
    assert series == {"value": "eval/return", "lower": "eval/return_low", "upper": "eval/return_high"}


def test_one_seed_has_a_layout_and_no_chart_of_an_interval(tmp_path):
    write_run(tmp_path / "one", [3], {"Agent": "dqn"}, judged=False)
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    context = TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(tmp_path)))
    layout = CustomScalarsPlugin(context).layout_impl(RequestContext(), "")
    (category,) = (json.loads(layout) if isinstance(layout, str) else layout)["category"]
    assert [chart["title"] for chart in category["chart"]] == [
        "eval/return: greedy episodes during training",
        "train/episode_return: the episodes that are learned from",
    ]


def test_a_chart_says_what_its_tag_means(shown):
    tags = ScalarsPlugin(shown).index_impl(RequestContext(), "")
    assert GLOSSARY["explore/epsilon"].description in tags["dqn1"]["explore/epsilon"]["description"]
    judged = {tag for tag in GLOSSARY if tag.partition("/")[0] in ("return", "eval", "final")}
    assert {*tags["dqn3"], *tags["dqn3/hparams"]} - {"train/episode_return", "explore/epsilon"} == judged
    assert tags["ppo3/seed-8"].keys() == {"train/episode_return", "eval/return", "eval/length"}


def test_a_resumed_run_is_compared_by_its_last_number_alone(tmp_path):
    for resume_at in (None, 500):
        write_run(tmp_path / "run", [3], {"Agent": "dqn"}, judged=resume_at is not None, resume_at=resume_at)
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    last = provider.read_last_scalars(RequestContext(), experiment_id="", plugin_name="scalars")
    assert last["run/hparams"]["return"].value == 25.0


@pytest.mark.parametrize("left", ["nothing", "half a record"])
def test_a_point_stays_one_where_a_killed_process_left_a_file_without_its_beginning(left, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    write_run(whole, [3], {"Agent": "dqn"}, judged=False)
    begun = next(whole.glob("events.*")).read_bytes()[:20]
    run.mkdir()
    (run / "events.out.tfevents.1000000000.host.1.0").write_bytes(begun if left == "half a record" else b"")
    write_run(run, [3], {"Agent": "dqn"}, judged=False, resume_at=0)
    for _ in range(3):  # killed before anything new is drawn, again and again
        MetricsLog(run, [3], iqm=np.median, summarise=summarise, resume_at=1000).close()
    assert drawn(run) == drawn(whole)


def test_all_settings_are_a_table_of_text(shown):
    tensors = shown.data_provider.read_tensors(
        RequestContext(), experiment_id="", plugin_name="text", downsample=1, run_tag_filter=None
    )
    text = tensors["dqn1"]["settings/text_summary"][0].numpy.item()
    assert (text if isinstance(text, str) else text.decode()).splitlines() == [
        "| setting | value | origin |",
        "|---|---|---|",
        "| gamma | 0.9 | command line |",
        "| dueling | True |  |",
        "| hidden | (64, 64) |  |",
    ]
