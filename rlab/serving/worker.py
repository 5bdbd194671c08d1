"""One of several processes that answer ends with the one that started it, however that ends."""

import asyncio
import multiprocessing
import signal

from rlab.serving.log import log


def end_with_parent() -> None:
    """Stop as SIGTERM does once the parent is gone: killed, it can tell nobody, and a worker would keep the port.

    Call it in the event loop of a process that multiprocessing has started.
    """
    parent, loop = multiprocessing.parent_process(), asyncio.get_running_loop()
    assert parent is not None

    def gone() -> None:
        loop.remove_reader(parent.sentinel)
        log("warning", "the process that started this one is gone; it stops")
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(parent.sentinel, gone)
