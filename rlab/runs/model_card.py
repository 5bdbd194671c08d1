"""The model card of a published version: what it is, what it returned, where it comes from and what it is not for, in
Markdown, with the metadata that the Hugging Face hub reads in front.

The metadata are those of the hub's model cards (huggingface.co/docs/hub/model-cards): `model-index` holds results, in
which the task of reinforcement learning is `reinforcement-learning` and its metric `mean_reward`. Values are written as
JSON, of which YAML is a superset. What comes from a run stands in code spans, where nothing is Markdown or HTML.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlab.door import clean
from rlab.runs.versions import Version

TASK = "reinforcement-learning"
MOST_MEMBERS = 20  # that have a row of their own


def card(version: Version, spaces: Mapping[str, Any], members: Mapping[int, tuple[float, float]]) -> str:
    """The card as Markdown.

    Args:
        spaces: `obs_space` and `action_space` of the policy, as plain data.
        members: mean return and mean length of each member, by training seed.
    """
    parts = (
        _metadata(version),
        _title(version),
        _returned(version, members),
        _lineage(version),
        _env(version, spaces),
        _settings(version),
        _made_with(version),
        _limits(version),
        _use(version),
    )
    return "\n\n".join(parts) + "\n"


def _metadata(version: Version) -> str:
    env_id, returned = version.env["env_id"], version.returned
    tags = _json([TASK, "rlab", version.agent, env_id])
    metrics = {"mean_reward": ("mean return", returned.mean), "iqm": ("IQM of the members' mean returns", returned.iqm)}
    lines = [
        "---",
        "library_name: rlab",
        f"pipeline_tag: {TASK}",
        f"tags: {tags}",
        "model-index:",
        f"- name: {_json(version.name)}",
        "  results:",
        f"  - task: {{type: {TASK}, name: {TASK}}}",
        f"    dataset: {{type: {_json(env_id)}, name: {_json(env_id)}}}",
        "    metrics:",
    ]
    for kind, (name, value) in metrics.items():
        lines += [f"    - type: {kind}", f"      value: {_yaml_number(value)}", f"      name: {_json(name)}"]
    return "\n".join([*lines, "---"])


def _title(version: Version) -> str:
    count = len(version.seeds)
    members = (
        f"{count} members, one for each of the training seeds" if count > 1 else "one member, of the training seed"
    )
    trained = "" if version.time is None else f", trained for {version.time:,} {_unit(version)} per member"
    return (
        f"# {version.name}, version {version.version}\n\n"
        f"A policy of the agent {_code(version.agent)} for {_code(version.env['env_id'])}, made with rlab: {members} "
        f"{_numbers(version.seeds)}{trained}."
    )


def _returned(version: Version, members: Mapping[int, tuple[float, float]]) -> str:
    found = version.returned
    digits = _digits(found.mean, found.iqm, found.worst_seed)

    def interval(ends: tuple[float, float] | None, alone: str) -> str:
        return alone if ends is None else f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"

    coverage = found.ci95_coverage
    narrow = "" if coverage is None else f" (of so few members it holds the true value in {coverage:.0%} of cases)"
    rows = [
        ("IQM of the members' mean returns", f"{found.iqm:.{digits}f}"),
        ("its 95 % interval, for other training seeds", interval(found.ci95, "one member cannot tell") + narrow),
        ("mean return", f"{found.mean:.{digits}f}"),
        ("its 95 % interval, for other episodes", interval(found.episodes_ci95, "one episode cannot tell")),
        ("worst member", f"{found.worst_seed:.{digits}f}"),
    ]
    actions = "greedy actions" if found.greedy else "actions sampled as in training"
    last = found.first_seed + found.episodes - 1
    judged = (
        f"Judged after training by {found.episodes:,} episodes per member, {actions}, env seeds {found.first_seed:,} "
        f"to {last:,}, which training never uses. Returns are undiscounted sums of the env's own rewards."
    )
    parts = ["## Measured return", judged, _table(("", "return"), rows)]
    if 1 < len(members) <= MOST_MEMBERS:
        each = [(str(s), f"{mean:.{digits}f}", f"{length:.1f}") for s, (mean, length) in members.items()]
        parts.append(_table(("training seed", "mean return", "mean length"), each))
    if version.dropped:
        parts.append(
            f"Members that training went on without, since their numbers were not finite: seeds "
            f"{_numbers(version.dropped)}. They are not in these numbers."
        )
    return "\n\n".join(parts)


def _lineage(version: Version) -> str:
    rows = []
    for step in version.lineage:
        weights = "" if step.weights_sha256 is None else f", weights {_code(step.weights_sha256[:8])}"
        source = "" if step.name is None else f" from {_code(step.version or step.name)}{weights}"
        steps = f" ({', '.join(map(_code, step.steps))})" if step.steps else ""
        rows.append(f"1. {step.how}{steps}{source}")
    unknown = version.lineage[-1].name is not None
    ends = "\n\nWhat that policy was made of is not on record here." if unknown else ""
    published = f"Published {version.published} from {_code(version.source)}."
    return f"## Where it comes from\n\nThe last step first:\n\n{chr(10).join(rows)}{ends}\n\n{published}"


def _env(version: Version, spaces: Mapping[str, Any]) -> str:
    env = version.env
    limit = env.get("max_episode_steps")
    rows = [("environment", _code(env["env_id"]))]
    rows += [("keywords", _code(_json(env["kwargs"])))] if env.get("kwargs") else []
    rows += [("wrappers, innermost first", _code(_json(env["wrappers"])))] if env.get("wrappers") else []
    rows += [("time limit", "the environment's own" if limit is None else f"{limit:,} env steps")]
    rows += [
        ("observations", _code(_json(spaces["obs_space"]))),
        ("actions", _code(_json(spaces["action_space"]))),
    ]
    return f"## Environment\n\n{_table(('', ''), rows)}"


def _settings(version: Version) -> str:
    config = version.config
    if config is None:
        return "## Settings\n\nThe settings of its training are not on record in this policy."
    unread, origins = config.get("not_in_force", {}), config.get("origins", {})
    rows = [
        (_code(name), _code(_json(value)), str(origins.get(name, "default")))
        for part in ("run", "sources", "start", "settings")
        for name, value in (config.get(part) or {}).items()
        if name not in unread
    ]
    named = [row for row in rows if row[2] != "default"]
    rest = [row for row in rows if row[2] == "default"]
    return (
        f"## Settings\n\n{_table(('setting', 'value', 'from'), [(*row[:2], _code(row[2])) for row in named])}\n\n"
        "<details><summary>Settings with their defaults</summary>\n\n"
        f"{_table(('setting', 'value'), [row[:2] for row in rest])}\n\n</details>"
    )


def _made_with(version: Version) -> str:
    config = version.config or {}
    rows = [(_code(name), _code(str(value))) for name, value in version.computed_with.items() if value is not None]
    rows += [("commit of rlab", _code(str(config["commit"])))] if config.get("commit") else []
    rows += [("time to train and judge", f"{version.wall_seconds:,.0f} s")] if version.wall_seconds is not None else []
    command = config.get("command")
    fence = "" if command is None else f"\n\n```\n{' '.join(clean(command).split()).replace('```', '')}\n```"
    return f"## Versions and hardware\n\n{_table(('', ''), rows)}{fence}"


def _limits(version: Version) -> str:
    env_id, found = version.env["env_id"], version.returned
    limits = [
        f"It was judged in {_code(env_id)} as described above and nowhere else: in another environment, with other "
        "keywords, wrappers or dynamics, nothing is known of it.",
        "It takes observations of exactly the space above; what lies outside of the bounds, or is rare in training, "
        "may lead to any action.",
        f"The numbers are of {'greedy' if found.greedy else 'sampled'} actions over {found.episodes:,} episodes per "
        "member; a single episode may return much less than the mean.",
    ]
    if len(version.seeds) == 1:
        limits.append("It is one member: another training seed may give a policy that returns much more or less.")
    if ":" in env_id or any(":" in str(each.get("name")) for each in version.env.get("wrappers", ())):
        limits.append(
            "Its environment is code from outside rlab, which judging it runs with `--trust`. The files here hold "
            "numbers and plain data, and cannot run code."
        )
    else:
        limits.append("The files are JSON and safetensors: opening them runs no code, and needs no `--trust`.")
    return "## Limits\n\n" + "\n".join(f"- {each}" for each in limits)


def _use(version: Version) -> str:
    return f"""## Use

```
rlab eval {version.label}
rlab play {version.label}
rlab serve {version.label}
```

From the Hugging Face hub write `hf:USER/NAME`, the name of the repository, in place of `{version.label}`. In Python:

```python
import rlab

policy = rlab.load("{version.label}")
action = policy(obs)
```"""


def _unit(version: Version) -> str:
    return version.unit.replace("_", " ")


def _numbers(numbers: Sequence[int]) -> str:
    """`0 to 9`, or each of them."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _digits(*values: float) -> int:
    largest = max(map(abs, values))
    return 1 if largest >= 100 else 2 if largest >= 10 else 3


def _json(value: Any) -> str:
    return clean(json.dumps(value, ensure_ascii=False, sort_keys=True))


def _yaml_number(value: float) -> str:
    """A number for readers of YAML 1.1, to which 1e-07 is a text."""
    mantissa, exponent, power = repr(float(value)).partition("e")
    return mantissa + ("" if not exponent or "." in mantissa else ".0") + exponent + power


def _code(text: str) -> str:
    """A text in a code span, where nothing in it is Markdown or HTML; bars would end a cell of a table."""
    shown = " ".join(clean(text).replace("`", "'").split())
    return f"`{shown}`" if shown else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
