"""The Python way: `run = rlab.train("dqn", "CartPole-v1", seeds=10)`, then `rlab.load(run.path)`."""

from rlab.jobs.check import check as check
from rlab.jobs.collect import collect as collect
from rlab.jobs.collect import collect_random as collect_random
from rlab.jobs.collect import merge_datasets as merge_datasets
from rlab.jobs.compare import compare as compare
from rlab.jobs.compress import compress as compress
from rlab.jobs.evaluate import evaluate as evaluate
from rlab.jobs.export import export as export
from rlab.jobs.finetune import finetune as finetune
from rlab.jobs.listeners import FinishedEpisode as FinishedEpisode
from rlab.jobs.listeners import Listener as Listener
from rlab.jobs.live_report import live_report as live_report
from rlab.jobs.play import Played as Played
from rlab.jobs.play import play as play
from rlab.jobs.pretrain import pretrain as pretrain
from rlab.jobs.publish import publish as publish
from rlab.jobs.report import report as report
from rlab.jobs.resume import resume as resume
from rlab.jobs.running import Run as Run
from rlab.jobs.saved import load as load
from rlab.jobs.search import search_compression as search_compression
from rlab.jobs.train import train as train
from rlab.machine import hardware as hardware
from rlab.machine import versions as versions
from rlab.search.bench import bench as bench
from rlab.search.tune import tune as tune
