"""What the pages show of the code itself, made when they are built: `<!-- rlab: NAME -->` becomes a table of that name.

MkDocs calls `on_page_markdown` for every page. Nothing here is written by hand twice: a table comes from the code or
from the recorded results.
"""

import ast
import json
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import rlab.experiments

EXPERIMENTS = Path(str(rlab.experiments.__file__)).parent
ROOT = EXPERIMENTS.parent
HOUSE = tomllib.loads((ROOT / "tests/house/house.toml").read_text())
PLAIN = "percentile (rliable)"  # as the study of coverage calls it
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


def unrecorded() -> str:
    """The experiment files whose result is neither in a file beside them nor in the table of MinAtar."""
    played = json.loads((EXPERIMENTS / "minatar.result.json").read_text())["results"]
    known = {f"{found['agent']}-MinAtar-{found['game']}-v1" for found in played}
    names = [path.stem for path in sorted(EXPERIMENTS.glob("*.toml"))]
    left = [f"`{name}`" for name in names if name not in known and not (EXPERIMENTS / f"{name}.result.json").exists()]
    return f"No result is recorded yet of: {', '.join(left)}." if left else "Every experiment file has its result."


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


def coverage() -> str:
    """How often each method's 95 % interval of the IQM holds the true value, in percent of simulated studies."""
    result = json.loads((EXPERIMENTS / "coverage.result.json").read_text())
    ten, twenty = (result["one group"][runs] for runs in ("10 runs", "20 runs"))
    others = ["BCa", "studentised", "t of the trimmed mean"]
    rows = []
    for name, found in ten.items():
        both = [f"{100 * each[name]['rlab']:.1f} ({100 * each[name][PLAIN]:.1f})" for each in (ten, twenty)]
        worst = min(min(result["two equal groups"][runs][name].values()) for runs in ("10 runs", "20 runs"))
        rows.append([name, *both, *(f"{100 * found[other]:.1f}" for other in others), f"{100 * worst:.1f}"])
    columns = [
        "returns of runs",
        "10 runs: rlab (plain percentiles)",
        "20 runs",
        *(f"{each}, 10 runs" for each in others),
    ]
    return table([*columns, "equal groups"], rows)


def switches() -> str:
    """What double DQN reaches with each switch of its family, and Rainbow without each of its parts."""
    result = json.loads((EXPERIMENTS / "switches.result.json").read_text())
    rows = []
    for name, found in result["results"].items():
        low, high = found["ci95"]
        solved = sum(value >= 475.0 for value in found["per_seed"])
        interval = f"{found['iqm']:.1f} [{low:.1f}, {high:.1f}]"
        rows.append([name, interval, f"{min(found['per_seed']):.1f}", f"{solved} of {len(found['per_seed'])}"])
    return table(["agent", "IQM", "worst seed", "seeds at 475 or more"], rows)


def minatar() -> str:
    """What agents reached in MinAtar's games, beside what was read off the paper's figure."""
    result = json.loads((EXPERIMENTS / "minatar.result.json").read_text())
    rows = []
    for found in result["results"]:
        low, high = found["ci95"]
        interval = f"{found['iqm']:.1f} [{low:.1f}, {high:.1f}]"
        per_seed = found["per_seed"]
        beside = [len(per_seed), interval, f"{min(per_seed):.1f}", f"{found['young_and_tian_dqn']:g}"]
        rows.append([found["game"], f"`{found['agent']}`", *beside])
    return table(["game", "agent", "seeds", "IQM", "worst seed", "Young and Tian's DQN"], rows)


def benchmarks() -> str:
    """Which speed comparisons are recorded, and on what machine."""
    rows = []
    for path in sorted(EXPERIMENTS.glob("benchmarks/*.result.json")):
        machine = json.loads(path.read_text())["measured_on"]
        where = f"{machine['cpu']}, {machine['cores']} cores" + (f", {machine['gpu']}" if machine.get("gpu") else "")
        rows.append([f"`{path.name.partition('.')[0]}`", where, f"torch {machine['torch']}"])
    return table(["`python -m rlab.experiments.benchmarks.` ...", "machine", "version"], rows)


def agents() -> str:
    """The registry."""
    from rlab.agents import AGENTS, load_agent

    rows = [[f"`{name}`", (load_agent(name).__doc__ or "").partition("\n")[0]] for name in sorted(AGENTS)]
    return table(["agent", "what it is"], rows)


def extras() -> str:
    """What is installed by name beside rlab itself."""
    from rlab.jobs.doctor import EXTRAS

    return table(["extra", "for"], [[f"`{name}`", what] for name, (_, what) in sorted(EXTRAS.items())])


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
    return listing("tests/agents/own_agent.py")


def listing(path: str) -> str:
    """A whole file of the repository."""
    return f'```python title="{Path(path).name}"\n{(ROOT / path).read_text()}```'


def outside_agents() -> str:
    """The agents that are written as somebody outside rlab would write them: what they are, and each file, folded."""
    files = sorted((ROOT / "tests/agents/outside").glob("[!_]*.py"))
    files = [path for path in files if not path.name.startswith(("test_", "conftest"))]
    rows, folded = [], []
    for path in files:
        source = path.read_text()
        what = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0].replace("\n", " ")
        rows.append([f"`{path.name}`", what, sum(map(bool, source.splitlines()))])
        folded.append(f'??? example "{path.name}"\n' + textwrap.indent(f"```python\n{source}```", "    "))
    return "\n\n".join([table(["file", "what it is", "lines, without blank ones"], rows), *folded])


def rooms() -> dict[str, dict[str, Any]]:
    """The rooms of the house that exist, each after those that it imports."""
    return {name: room for name, room in HOUSE["rooms"].items() if (ROOT / room["path"]).exists()}


def import_table() -> str:
    """What lives in each room, and which others it may import."""
    found = rooms()
    rows = []
    for room in found.values():
        below = [other for other in room["imports"] if other in found]
        files = [f"the files of {other}" for other in room.get("data", ())]
        rows.append([f"`{room['path']}`", room["holds"], ", ".join([*below, *files]) or "nothing"])
    return table(["room", "what lives there", "may import, of rlab"], rows)


def modules_for_all() -> str:
    """The modules that every room may import."""
    return ", ".join(f"`{name}`" for name in HOUSE["everywhere"])


def road() -> str:
    """The files that a transition passes through."""
    return table(["file", "what happens there"], [[f"`{step['file']}`", step["what"]] for step in HOUSE["road"]])


WIDTH, HEIGHT, ACROSS, DOWN = 148, 34, 176, 84  # of a box of the picture, and from one to the next, in pixels


def house_picture() -> str:
    """The rooms as boxes, each above those that it imports, with an arrow where no other room lies between."""
    imports = {name: set(room["imports"]) & rooms().keys() for name, room in rooms().items()}
    reach: dict[str, set[str]] = {}  # what each room imports, and what those import, and so on
    for name, below in imports.items():
        reach[name] = below.union(*(reach[other] for other in below))
    floor: dict[str, int] = {}  # as high as what imports it allows; 0 is the top
    for name in reversed(list(imports)):
        floor[name] = 1 + max((floor[user] for user, below in imports.items() if name in below), default=-1)
    widest = max(list(floor.values()).count(level) for level in floor.values())
    at = {}
    for level in set(floor.values()):
        row = [name for name in imports if floor[name] == level]
        for place, name in enumerate(row):
            at[name] = (ACROSS * (widest / 2 + place - (len(row) - 1) / 2), DOWN * level + HEIGHT / 2 + 2)
    arrows = [
        (name, other)
        for name, below in imports.items()
        for other in below
        if not any(other in reach[between] for between in below)
    ]
    size = f"0 0 {ACROSS * widest} {DOWN * max(floor.values()) + HEIGHT + 4}"
    lines = [f'<div class="house"><svg viewBox="{size}" role="img" aria-label="Rooms and imports">', ARROW_HEAD]
    lines += [arrow(at[name], at[other]) for name, other in sorted(arrows)]
    for name, (x, y) in at.items():
        lines.append(
            f'<rect x="{x - WIDTH / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        )
        lines.append(f'<text x="{x:.0f}" y="{y + 4:.0f}">{rooms()[name]["path"]}</text>')
    return "\n".join([*lines, "</svg></div>"])


ARROW_HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path class="head" d="M0 0 L8 4 L0 8 Z"/></marker></defs>'
)


def arrow(user: tuple[float, float], used: tuple[float, float]) -> str:
    """A curve from the foot of one box to the head of another, which leaves and arrives upright."""
    (x, y), (to_x, to_y) = user, used
    to_x += max(-WIDTH / 3, min(WIDTH / 3, (x - to_x) / 4))
    y, to_y = y + HEIGHT / 2, to_y - HEIGHT / 2
    down = to_y - y
    curve = f"M{x:.0f} {y:.0f} C{x:.0f} {y + 0.75 * down:.0f} {to_x:.0f} {to_y - 0.35 * down:.0f} {to_x:.0f} {to_y:.0f}"
    return f'<path class="arrow" d="{curve}" marker-end="url(#head)"/>'


PARTS: dict[str, Callable[[], str]] = {
    "agents": agents,
    "benchmarks": benchmarks,
    "cleanrl-names": cleanrl_names,
    "command-line": command_line,
    "coverage": coverage,
    "evidence": evidence,
    "unrecorded": unrecorded,
    "extras": extras,
    "glossary": glossary,
    "house-picture": house_picture,
    "import-table": import_table,
    "modules-for-all": modules_for_all,
    "outside-agents": outside_agents,
    "own-agent": own_agent,
    "road": road,
    "sb3-names": sb3_names,
    "studies": studies,
    "switches": switches,
    "minatar": minatar,
    "wrappers": wrappers,
}
