"""`rlab compress RUN --steps STEPS`, or `--search` within a bound: a smaller, faster policy, and what it cost."""

from dataclasses import dataclass
from typing import Any

import tyro

from rlab.cli.flags import given, parse
from rlab.cli.help import Page
from rlab.cli.shared import keywords, show
from rlab.errors import UsageError

OF_SEARCH = frozenset({"max_bytes", "max_latency_us", "candidates"})


@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    """What to compress, how, and when that counts as a success."""

    run: tyro.conf.Positional[str]  # a run folder (its final policy) or a policy folder
    # one after the other, such as distil:64x64,prune:0.5,int8; also sparse:SHARE lowrank:RANK fp16 bf16 int4 int2
    # dynamic8 static8 qat8 qat4 qat2; distil-hard:WxW learns greedy actions alone, prune-norm:SHARE and
    # prune-gradient:SHARE judge neurons by other measures than their activation
    steps: str | None = None
    search: bool = False  # in place of steps: try widths, sparsity and bits, and keep the best within the bounds
    max_bytes: int | None = None  # of one member's weights as a file; a bound of the search
    max_latency_us: float | None = None  # of one decision, median, exported where onnxruntime is; a bound of the search
    candidates: int = 24  # that the search trains at most
    out: str | None = None  # the new policy folder; None: a fresh one under runs/
    episodes: int = 100  # per member, that parent and child are judged by
    min_return_ratio: float = 0.95  # that the lower end of the return ratio's interval must reach; 0: any return
    member: int | None = None  # training seed of one member; None: all
    updates: int | None = None  # of each step that trains; None: 2000
    envs: int | None = None  # instances of the env at once, in all; None: 10 per member
    trust: bool = False  # run envs, wrappers and layers from outside rlab that the folder names
    json: bool = False  # one JSON object on standard output


SCHEMAS = (CompressOptions,)
PAGE = Page(
    "rlab compress RUN --steps STEPS [settings]",
    "Make a trained policy smaller and faster, and report what that costs in return.",
    ("rlab compress runs/my-run --steps distil:64x64,int8", "rlab compress runs/my-run --search --max-bytes 4096"),
)


def run(argv: list[str]) -> int:
    """Parse, compress, compare, report; the exit code is 1 where too much of the return is lost."""
    (options,) = parse(argv, SCHEMAS, prog="rlab compress", page=PAGE)
    _check(options, given(argv, SCHEMAS))
    if options.search:
        from rlab.jobs.search import search_compression

        done: Any = search_compression(**keywords(options, "steps", "search"), progress=True)
    else:
        from rlab.jobs.compress import compress

        done = compress(**keywords(options, "search", *OF_SEARCH), progress=True)
    return show(options.json, done.to_json, done.summary, done.success)


def _check(options: CompressOptions, named: frozenset[str]) -> None:
    """Raise UsageError for settings that do not go together, before torch is imported."""
    if options.search and options.steps is not None:
        raise UsageError("--steps and --search exclude each other: give the steps, or have them searched for.")
    if not options.search:
        for_search = sorted(named & OF_SEARCH)
        if for_search:
            raise UsageError(f"--{for_search[0].replace('_', '-')} is for a search; add --search in place of --steps.")
        if options.steps is None:
            raise UsageError("--steps is missing; give a text such as distil:64x64,int8, or --search --max-bytes 4096.")
        return
    if options.max_bytes is None and options.max_latency_us is None:
        raise UsageError("--search needs a bound: --max-bytes 4096, --max-latency-us 10 or both.")
