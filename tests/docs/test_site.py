"""The pages are built as `make docs` builds them: no broken link, nothing fetched from another machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rlab

ROOT = Path(rlab.__file__).parent.parent
SMALL = {"env_steps": 512, "seeds": 2, "episodes": 2}  # of a notebook
FETCHED = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]  # strict: a link that leads nowhere is an error
    return folder


def test_no_page_fetches_anything_from_another_machine(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    assert {page.name: found for page in pages if (found := FETCHED.findall(page.read_text()))} == {}


def test_what_python_leaves_beside_the_hooks_is_no_part_of_it(site: Path) -> None:
    assert [path for path in site.rglob("*") if path.suffix in (".py", ".pyc") or path.name == "__pycache__"] == []


def test_generated_parts_are_filled_in(site: Path) -> None:
    names = "command-line", "evidence", "from-sb3", "house", "tensorboard", "your-agent"
    text = {name: (site / f"{name}.html").read_text() for name in names}
    assert not any("<!-- rlab:" in page for page in text.values())
    assert "--learning-rate" in text["command-line"]
    assert "double_dqn-LunarLander-v3" in text["evidence"]
    assert "ent_coef" in text["from-sb3"]
    assert "train/episode_return" in text["tensorboard"]
    outside = [path.name for path in (ROOT / "tests/agents/outside").glob("*.py")]
    assert [name for name in ["own_agent.py", *outside] if name not in text["your-agent"]] == []
    rooms = re.findall(r"<text [^>]*>([^<]*)</text>", text["house"])
    assert {"rlab/networks/", "rlab/jobs/", "agents/"} <= set(rooms)
    assert [room for room in rooms if f"<code>{room}</code>" not in text["house"]] == []  # picture and table agree


def test_every_experiment_file_has_its_result_on_the_page_of_evidence_or_is_said_to_have_none(site: Path) -> None:
    page = (site / "evidence.html").read_text()
    names = {path.stem for path in (ROOT / "experiments").glob("*.toml")}
    missing = {name for name in names if f"<code>{name}</code>" not in page}
    assert {name for name in missing if "-MinAtar-" not in name} == set()  # a table of their own has those


def test_the_python_page_documents_every_public_name() -> None:
    page = (ROOT / "docs/python.md").read_text()
    documented = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert set(rlab.__all__) - {"RlabError", "UsageError", "__version__"} <= documented


NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize(  # what the first run shows, pages show too
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.prove if path.stem == "first_run" else ())
        for path in NOTEBOOKS
    ],
)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="the extra `notebook` is not installed")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("pandas")
    notebook = nbformat.reads(path.read_text(), as_version=4)
    sizes = notebook.cells[1]  # the first cell of code says how large everything is
    assert re.findall(r"^(\w+) = ", sizes.source, re.MULTILINE) == list(SMALL)
    sizes.source = "\n".join(f"{name} = {value}" for name, value in SMALL.items())
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert (tmp_path / "runs").is_dir()
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", ())]
    shown = [each["data"].get("text/html", "") for each in outputs if each["output_type"] == "display_data"]
    bars = [each for each in shown if each.startswith("<progress ")]
    assert len(bars) == sum(cell.source.count("progress=True") for cell in notebook.cells) > 0
    assert all(bar.startswith('<progress value="1.0000" max="1"') for bar in bars)  # drawn anew in its place
