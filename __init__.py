"""Not a part of rlab: what Python imports as `rlab` in the folder that holds a clone named `rlab`, where it would
otherwise make a package without content of the clone. It puts the real package, `rlab/` beside this file, in its place.
"""

import importlib.util
import sys
from pathlib import Path

if __name__ == "rlab":
    _folder = Path(__file__).resolve().parent / "rlab"
    _spec = importlib.util.spec_from_file_location(
        "rlab", _folder / "__init__.py", submodule_search_locations=[str(_folder)]
    )
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["rlab"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["rlab"])
