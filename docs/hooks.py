"""What the pages show of the code itself, made when they are built: `<!-- rlab: NAME -->` becomes a table of that name.

MkDocs calls `on_page_markdown` for every page. Nothing here is written by hand twice: a table comes from the code or
from the recorded results.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import rlab.experiments

EXPERIMENTS = Path(str(rlab.experiments.__file__)).parent
PLACE = re.compile(r"^<!-- rlab: ([\w-]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with every generated part in its place.

    Raises:
        KeyError: a page asks for a part that nobody makes.
    """
    return PLACE.sub(lambda found: PARTS[found[1]](), markdown)


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """The pictures of the recorded results, as `pictures/NAME.png`."""
    from mkdocs.structure.files import File

    for path in sorted(EXPERIMENTS.glob("*.png")):
        files.append(File.generated(config, f"pictures/{path.name}", abs_src_path=str(path)))
    return files


def on_post_page(output: str, **_: Any) -> str:
    """The page without the theme's script from another machine, which `assets/worker-from-disk.js` stands in for."""
    return output.replace("https://unpkg.com/iframe-worker/shim", "assets/worker-from-disk.js")


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for the page of missing pages."""
    return on_post_page(output_content)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def results(pattern: str) -> list[dict[str, Any]]:
    """The recorded results whose file names match, by name."""
    return [json.loads(path.read_text()) for path in sorted(EXPERIMENTS.glob(pattern))]


def evidence() -> str:
    """Every experiment file with a recorded result: what was reached and whether its claims hold."""
    rows = []
    for result in results("*.result.json"):
        if "experiment" not in result:
            continue
        config, evaluation = result["config"], result["evaluation"]
        low, high = evaluation["ci95"]
        worst = min(member["return_mean"] for member in evaluation["per_seed"])
        digits = 1 if abs(evaluation["iqm"]) >= 10 else 3
        interval = f"{evaluation['iqm']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        claims = "; ".join(map(claim, result["claims"]))
        name = f"`{result['experiment']}`"
        steps = f"{config['run']['env_steps']:,}"
        rows.append([name, steps, len(evaluation["per_seed"]), interval, f"{worst:.{digits}f}", claims])
    return table(["`rlab bench` name", "env steps", "seeds", "IQM", "worst seed", "claims"], rows)


def claim(held: dict[str, Any]) -> str:
    """One claim with its verdict: `seeds at or above 475: 20 of 20, claimed 19`."""
    what = held["measure"].replace("_", " ") + ("" if held["threshold"] is None else f" {held['threshold']:g}")
    verdict = "holds" if held["holds"] else "**fails**"
    return f"{what}: {held['found']:.4g}, claimed {held['at_least']:g}: {verdict}"


def studies() -> str:
    """The goals of every recorded study, with what was found."""
    rows = []
    for result in results("*.result.json"):
        for goal in result.get("goals", ()) if "study" in result else ():
            bound = f"at least {goal['at_least']:g}" if "at_least" in goal else f"at most {goal['at_most']:g}"
            verdict = "holds" if goal["holds"] else "**fails**"
            rows.append([f"`{result['study']}`", goal["goal"], f"{goal['found']:.4g}", bound, verdict])
    return table(["`python -m rlab.experiments.` ...", "what", "found", "goal", ""], rows)


def benchmarks() -> str:
    """Which speed comparisons are recorded, and on what machine."""
    rows = []
    for path in sorted(EXPERIMENTS.glob("benchmarks/*.result.json")):
        machine = json.loads(path.read_text())["measured_on"]
        where = f"{machine['cpu']}, {machine['cores']} cores" + (f", {machine['gpu']}" if machine.get("gpu") else "")
        rows.append([f"`{path.name.removesuffix('.result.json')}`", where, f"torch {machine['torch']}"])
    return table(["`python -m rlab.experiments.benchmarks.` ...", "machine", "version"], rows)


def agents() -> str:
    """The registry."""
    from rlab.agents import AGENTS, load_agent

    rows = [[f"`{name}`", (load_agent(name).__doc__ or "").partition("\n")[0]] for name in sorted(AGENTS)]
    return table(["agent", "what it is"], rows)


def wrappers() -> str:
    """The wrappers that go by a name."""
    from rlab.envs.wrappers import WRAPPERS

    rows = [
        [f"`{name}`", f"`{location.replace(':', '.')}`", "" if package is None else f"`{package.install}`"]
        for name, (location, package) in WRAPPERS.items()
    ]
    return table(["name", "class", "needs"], rows)


def command_line() -> str:
    """Every verb and agent with its settings, from the parsers."""
    from rlab.cli.reference import reference

    found = reference()
    parts = ["## Verbs\n"]
    for verb in found["verbs"]:
        summary = verb["summary"]
        parts += [f"### {verb['verb']}\n", f"{summary[0].upper()}{summary[1:]}.\n", f"`{verb['usage']}`\n"]
        parts += [f"{verb['description']}\n"] if verb["description"] else []
        parts += [f"- {note}" for note in verb["notes"]] + ([""] if verb["notes"] else [])
        parts += settings_tables(verb["groups"])
    parts.append("## Settings of the agents\n")
    for agent in found["agents"]:
        parts += [f"### {agent['agent']}\n", f"{agent['what']} Learns from: {agent['learns_from']}.\n"]
        parts += settings_tables(agent["groups"])
    return "\n".join(parts)


def settings_tables(groups: Iterable[dict[str, Any]]) -> list[str]:
    """A table of settings for each group that has any."""
    parts = []
    for group in groups:
        rows = [
            [f"`{one['typed']}`", "required" if one["required"] else f"`{words(one['default'])}`", one["help"]]
            for one in group["settings"]
        ]
        if rows:
            parts += [f"**{group['heading']}**\n", table(["setting", "default", "what it is"], rows), ""]
    return parts


def words(value: Any) -> str:
    """A default as the command line has it."""
    return (" ".join(map(str, value)) if isinstance(value, list) else str(value)) or "none"


def names_of(library: str) -> str:
    """The names of settings that rlab answers with its own."""
    from rlab.jobs.aliases import ALIASES, BOTH

    rows = [
        [f"`{alias.theirs}`", ", ".join(f"`{name}`" for name in alias.ours), alias.note]
        for alias in ALIASES
        if alias.of in (library, BOTH)
    ]
    return table([library, "rlab", ""], rows)


def sb3_names() -> str:
    """Those of Stable-Baselines3."""
    from rlab.jobs.aliases import SB3

    return names_of(SB3)


def cleanrl_names() -> str:
    """Those of CleanRL."""
    from rlab.jobs.aliases import CLEANRL

    return names_of(CLEANRL)


def glossary() -> str:
    """Every tag of TensorBoard and of `metrics.jsonl`."""
    from rlab.runs.glossary import TAGS

    return table(["tag", "unit", "meaning", "written by"], [[f"`{t.name}`", t.unit, t.meaning, t.writer] for t in TAGS])


def own_agent() -> str:
    """The agent of one's own that the tests run, whole."""
    return f'```python title="own_agent.py"\n{(EXPERIMENTS.parent / "tests/agents/own_agent.py").read_text()}```'


PARTS: dict[str, Callable[[], str]] = {
    "agents": agents,
    "benchmarks": benchmarks,
    "cleanrl-names": cleanrl_names,
    "command-line": command_line,
    "evidence": evidence,
    "glossary": glossary,
    "own-agent": own_agent,
    "sb3-names": sb3_names,
    "studies": studies,
    "wrappers": wrappers,
}
