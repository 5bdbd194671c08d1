"""TensorBoard's event files of a run that goes on: what it will draw again is dropped, so that every curve is one.

TensorBoard itself hides what an earlier process wrote behind the point where a later one began, but only where file
names sort by time: two of one second may sort the other way round, and then it hides everything. So the events that
stay are put into one file whose name sorts first.

A file is a row of records: the length of the event (8 bytes), its checksum (4), the event, its checksum (4).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlab import door
from rlab.runs import files

KEPT = "events.out.tfevents.0.kept"  # where the second of its beginning stands in other names
LENGTH, CHECKSUM = struct.Struct("<Q"), 4
MOST = 4 * 2**30  # bytes of a file; a curve has some 100 bytes a point
JUDGED = ("eval/", "return")  # how the tags of an evaluation begin, that of the HPARAMS tab too
FINAL = ("final/", "_hparams_/session_end_info")


def drop_after(place: Path, time: int, judged_again: bool) -> None:
    """Drop the events behind a time, the final evaluation, and what every process writes of its settings.

    Args:
        place: the folder of event files.
        time: of the checkpoint that the run goes on from.
        judged_again: whether the policy of that time will be judged again.

    Raises:
        RlabError: the disk refuses; then nothing is dropped.
    """
    found = sorted(place.glob("events.out.tfevents.*"))
    if not found:
        return
    # A crash may have left this file and those that it was made of: of equal records one stays.
    kept = dict.fromkeys(record for path in found for record in _records(path) if _stays(record, time, judged_again))
    head = next(_records(found[0]), b"")  # the version of the format
    files.write_bytes(place / KEPT, b"".join([head, *kept]))
    files.keep_only(place, {KEPT}, "events.out.tfevents.*")


def _records(path: Path) -> Iterator[bytes]:
    """The whole records of a file; a last one that was cut off is passed over."""
    data, at = door.read_file(path, MOST), 0
    while at + LENGTH.size <= len(data):
        end = at + LENGTH.size + LENGTH.unpack_from(data, at)[0] + 2 * CHECKSUM
        if end > len(data):
            return
        yield data[at:end]
        at = end


def _stays(record: bytes, time: int, judged_again: bool) -> bool:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

    try:
        event: Any = Event.FromString(record[LENGTH.size + CHECKSUM : -CHECKSUM])
    except DecodeError:  # it was damaged
        return False
    tags = [value.tag for value in event.summary.value]
    points = any(value.HasField("simple_value") or value.HasField("image") for value in event.summary.value)
    again = judged_again and event.step == time and any(tag.startswith(JUDGED) for tag in tags)
    return points and event.step <= time and not again and not any(tag.startswith(FINAL) for tag in tags)
