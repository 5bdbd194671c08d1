"""The numbers of replicas on several machines. Each writes its own into a folder, as the workers of one machine do into
one that they share; an actor of Ray has the newest of all, and every replica puts those of the others beside its own.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlab.runs import files
from rlab.serving.shared import EVERY

SILENT = 20 * EVERY  # seconds after which a replica is gone; what it has counted stays
NOBODY = 2**22 + 1  # above the largest number of a process that Linux has
OTHER = "of-another"  # in the names of files that another replica has written

Swap = Callable[[str, bytes | None], list[tuple[bytes, bool]]]


class Exchange:
    """The actor."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[bytes, float]] = {}

    def swap(self, name: str, content: bytes | None) -> list[tuple[bytes, bool]]:
        """Note the numbers of a replica; the others' come back, each with whether that replica is still there."""
        now = time.monotonic()
        if content is not None:
            self._newest[name] = content, now
        return [(found, now - at < SILENT) for each, (found, at) in self._newest.items() if each != name]


def exchange_once(folder: Path, name: str, swap: Swap) -> None:
    """Hand this replica's numbers in the folder out, and put those of the others beside them."""
    own = [path for path in folder.glob(f"{os.getpid()}-*.json") if OTHER not in path.name]
    others = swap(name, own[0].read_bytes() if own else None)
    for at, (content, is_there) in enumerate(others):
        # of a process that is alive, or of one that is not
        here, gone = (folder / f"{process}-{OTHER}-{at}.json" for process in (os.getpid(), NOBODY))
        files.write_bytes(here if is_there else gone, content)
        (gone if is_there else here).unlink(missing_ok=True)


def exchange_always(folder: Path, ray: Any, exchange: Any) -> None:
    """Do it in a thread, as long as the actor is there."""
    name = f"{socket.gethostname()}-{os.getpid()}"

    def run() -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            while True:
                exchange_once(folder, name, lambda *given: ray.get(exchange.swap.remote(*given)))
                time.sleep(EVERY)

    threading.Thread(target=run, name="numbers of replicas", daemon=True).start()
