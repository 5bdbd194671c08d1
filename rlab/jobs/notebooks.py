"""A progress bar in Jupyter, which is drawn again in its place. It needs no widgets; a front end without HTML shows the
same words as text."""

import html
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """How far something is, as a notebook shows it."""

    done: float  # share in [0, 1]
    words: str

    def __repr__(self) -> str:
        return f"{self.done:4.0%}  {self.words}"

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self.done:.4f}" max="1" style="width: 20em"></progress>'
        return f"{bar} {self.done:.0%} &nbsp;{html.escape(self.words)}"


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    return "ipykernel" in sys.modules and shell is not None and shell.get_ipython() is not None


def show(bar: Bar) -> Callable[[Bar], None]:
    """Show a bar in the cell that runs; what comes back draws another one in its place."""
    handle: Any = importlib.import_module("IPython.display").display(bar, display_id=True)
    return lambda newer: handle.update(newer)
