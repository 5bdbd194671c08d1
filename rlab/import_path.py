"""What `python -m rlab` leaves on the import path: not the current folder, where anybody's files may lie.

`rlab/__init__.py` imports this first of all: a file `json.py` in the current folder would else stand for Python's own.
The command line puts the current folder back, last, where the user lets code of their own run.
"""

import sys


def _is_run_as_module() -> bool:
    """Whether this is `python -m rlab...` on its way to that module, with the current folder first on the path."""
    on_the_way = sys.argv[:1] == ["-m"] and not sys.flags.safe_path
    words = [*sys.orig_argv, ""]
    asked = (f"-m{words[at + 1]}" if word == "-m" else word for at, word in enumerate(sys.orig_argv))
    return on_the_way and any(word.partition(".")[0] == "-mrlab" for word in asked)


_FIRST = sys.path.pop(0) if _is_run_as_module() and sys.path else None

from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader  # noqa: E402
from pathlib import Path  # noqa: E402

_HERE = Path(__file__).resolve().parent
# A clone that is used where it lies must be found by its workers, and nothing else that lies in it: its folder stands
# on the path by this name, which offers `rlab` alone.
ALONE = str(_HERE / "..")


class _Alone(FileFinder):
    def find_spec(self, fullname: str, target: object = None) -> ModuleSpec | None:
        return super().find_spec(fullname, target) if fullname == "rlab" else None  # type: ignore[arg-type]


if _FIRST is not None and Path(_FIRST).resolve() == _HERE.parent:
    sys.path.insert(0, ALONE)
if ALONE in sys.path:  # a worker has the path of the process that started it
    sys.path_importer_cache[ALONE] = _Alone(ALONE, (SourceFileLoader, [".py"]))
