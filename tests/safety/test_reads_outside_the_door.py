"""Every file is read through `rlab/door.py`; what is read elsewhere is named here with the reason."""

import ast
from pathlib import Path

import pytest

import rlab

ROOT = Path(rlab.__file__).parent.parent
FILES = sorted(path for room in ("rlab", "agents", "envs") for path in (ROOT / room).rglob("*.py"))
# Calls that read a file, by their last names.
READERS = frozenset(
    {"open", "read_bytes", "read_text", "fdopen", "fromfile", "memmap", "genfromtxt", "load_file", "safe_open", "File"}
    | {"ZipFile", "TarFile", "unpack_archive", "MinariDataset", "mmap"}
)
# Calls that read a file, or parse what somebody wrote, by their last two names.
PARSERS = frozenset(
    {"np.load", "numpy.load", "torch.load", "json.load", "json.loads", "tomllib.load", "tomllib.loads", "pickle.load"}
    | {"pickle.loads", "export.load", "np.loadtxt", "onnx.load", "yaml.load", "ast.literal_eval", "csv.reader"}
    | {"onnx.load_from_string", "torch.jit", "jit.load", "ort.InferenceSession", "safetensors.torch"}
)
KERNEL = "what the kernel writes"
ALLOWED: dict[str, dict[str, str]] = {
    "rlab/door.py": dict.fromkeys(
        ("os.fdopen", "os.open", "json.loads", "tomllib.loads", "zipfile.ZipFile", "archive.open"), "the door itself"
    ),
    "rlab/machine.py": {"cpuinfo.read_text": KERNEL},
    "rlab/experience/fields.py": {"open": KERNEL},
    "rlab/experience/minari_check.py": {"h5py.File": "after the door; nothing is read but names"},
    "rlab/experience/minari_files.py": {"minari.MinariDataset": "after minari_check has looked at its files"},
    "rlab/compression/export/limited.py": {
        "Path('/proc/self/statm').read_bytes": KERNEL,
        "json.loads": "a question of the process that started this one",
    },
    "rlab/compression/export/numpy_runner.py": dict.fromkeys(
        ("open", "np.load", "json.loads"),
        "users run this file without rlab, which itself reads by the door",
    ),
    "rlab/compression/export/numpy_writer.py": {"json.loads": "metadata that this process has made"},
    "rlab/compression/export/sessions.py": {"self.ort.InferenceSession": "bytes from the door"},
    "rlab/compression/export/torch_export.py": {"torch.export.load": "bytes from the door, of a file that is trusted"},
    "rlab/evaluation/report/document.py": dict.fromkeys(
        ("(HERE / 'page.css').read_text", "(HERE / 'page.js').read_text"), "files of rlab's own"
    ),
    "rlab/serving/page.py": {"(HERE / name).read_bytes": "files of rlab's own"},
    "rlab/serving/shared.py": {"path.read_bytes": "numbers that the processes of this server have just written"},
    "rlab/serving/ray_numbers.py": {"own[0].read_bytes": "numbers that this process has just written"},
    "rlab/jobs/varied.py": {"ast.literal_eval": "words of the user's own"},
    "rlab/search/study.py": {"json.loads": "what this process has made"},
    "rlab/jobs/play.py": {"self.video.read_bytes": "the film that it has just written"},
    "rlab/jobs/verify.py": dict.fromkeys(
        ("(first / name).read_bytes", "(second / name).read_bytes"), "runs that it has just made"
    ),
    "rlab/jobs/settings.py": {"ast.literal_eval": "a docstring of a config in the source"},
    "rlab/runs/tables.py": {"np.loadtxt": "lines from the door"},
    "envs/callables.py": {"path.read_text": "the source of a module that this process has imported"},
    "envs/specs.py": dict.fromkeys(("json.loads", "ast.literal_eval"), "words of the user's own"),
}
# Opened to write, to lock or to flush, and a run by its name.
NOT_READ = {
    "rlab/cli/main.py": {"os.open"},
    "rlab/engines/transfer.py": {"path.open"},
    "rlab/disk.py": {"os.open"},
    "rlab/compression/export/member_file.py": {"path.open"},
    "rlab/runs/appending.py": {"os.open"},
    "rlab/runs/files.py": {"os.open"},
    "rlab/runs/locks.py": {"os.open"},
    "rlab/serving/recording.py": {"os.open"},
}
THE_DOOR = {"files.read_bytes", "read_bytes", "RunFolder.open", "Run.open", "door.opened"}


def reads_of(source: str) -> set[str]:
    """The calls in a file that read another file or parse what somebody wrote, as they are written."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    names = {ast.unparse(call.func) for call in calls}
    found = {name for name in names if name.rpartition(".")[2] in READERS or ".".join(name.split(".")[-2:]) in PARSERS}
    return found - THE_DOOR


def test_every_file_is_read_through_the_door() -> None:
    found = {path.relative_to(ROOT).as_posix(): reads_of(path.read_text()) for path in FILES}
    expected = {name: set(ALLOWED.get(name, {})) | NOT_READ.get(name, set()) for name in ALLOWED.keys() | NOT_READ}
    assert {name: reads for name, reads in found.items() if reads} == expected


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("open('a').read()", {"open"}),
        ("Path(x).read_text()", {"Path(x).read_text"}),
        ("np.load(path)", {"np.load"}),
        ("def f():\n    return json.loads(line)", {"json.loads"}),
        ("files.read_bytes(a), RunFolder.open(b)", set()),
    ],
)
def test_the_rule_sees_what_it_should(source: str, read: set[str]) -> None:
    assert reads_of(source) == read
