"""`rlab compress RUN --steps STEPS`: a smaller, faster policy, and what it cost."""

import json
import sys
from dataclasses import dataclass
from typing import Any

import tyro

from rlab.cli.flags import parse


@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    """What to compress, how, and when that counts as a success."""

    run: tyro.conf.Positional[str]  # a run folder (its final policy) or a policy folder
    # one after the other, such as distil:64x64,prune:0.5,int8; also sparse:SHARE lowrank:RANK fp16 bf16 int4 int2
    # dynamic8 static8 qat8 qat4 qat2
    steps: str
    out: str | None = None  # the new policy folder; None: a fresh one under runs/
    episodes: int = 100  # per member, that parent and child are judged by
    min_return_ratio: float = 0.95  # that the lower end of the return ratio's interval must reach
    member: int | None = None  # training seed of one member; None: all
    updates: int | None = None  # of each step that trains; None: 2000
    trust: bool = False  # run envs, wrappers and layers of others that the folder names
    json: bool = False  # one JSON object on standard output


def run(argv: list[str]) -> int:
    """Parse, compress, compare, report; the exit code is 1 where too much of the return is lost."""
    (options,) = parse(argv, (CompressOptions,), prog="rlab compress")
    from rlab.cli.compressing import compress

    done = compress(
        options.run,
        options.steps,
        out=options.out,
        episodes=options.episodes,
        min_return_ratio=options.min_return_ratio,
        member=options.member,
        updates=options.updates,
        trust=options.trust,
        after_step=_say,
    )
    print(json.dumps(done.to_json()) if options.json else done.summary())
    return 0 if done.success else 1


def _say(step: Any) -> None:
    print(f"{step}: done", file=sys.stderr, flush=True)
