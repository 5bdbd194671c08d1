"""The Python way: `run = rlab.train("dqn", "CartPole-v1", seeds=10)`, then `rlab.load(run.path)`."""

from rlab.jobs.check import check
from rlab.jobs.collect import collect, collect_random, merge_datasets
from rlab.jobs.compress import compress
from rlab.jobs.evaluate import evaluate
from rlab.jobs.export import export
from rlab.jobs.finetune import finetune
from rlab.jobs.listeners import FinishedEpisode, Listener
from rlab.jobs.play import Played, play
from rlab.jobs.pretrain import pretrain
from rlab.jobs.resume import resume
from rlab.jobs.running import Run
from rlab.jobs.saved import load
from rlab.jobs.search import search
from rlab.jobs.train import train
from rlab.machine import hardware, versions

__all__ = [
    "FinishedEpisode",
    "Listener",
    "Played",
    "Run",
    "check",
    "collect",
    "collect_random",
    "compress",
    "evaluate",
    "export",
    "finetune",
    "hardware",
    "load",
    "merge_datasets",
    "play",
    "pretrain",
    "resume",
    "search",
    "train",
    "versions",
]
