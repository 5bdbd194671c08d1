"""TensorBoard's event files of a run that goes on: what it will draw again is dropped, so that every curve is one.

TensorBoard itself hides what an earlier process wrote behind the point where a later one began, but only where file
names sort by time: two of one second may sort the other way round, and then it hides everything. So the events that
stay are put into one file whose name sorts first.

A file is a row of records: the length of the event (8 bytes), its checksum (4), the event, its checksum (4).
"""

import io
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlab import door
from rlab.runs import files

KEPT = "events.out.tfevents.0.kept"  # where the second of its beginning stands in other names
VERSION = "brain.Event:2"  # of the format, as the first event of a file says
LENGTH, CHECKSUM = struct.Struct("<Q"), 4
MOST = 4 * 2**30  # bytes of a file; a curve has some 100 bytes a point
JUDGED = ("eval/", "return")  # how the tags of an evaluation begin, that of the HPARAMS tab too
FINAL = ("final/", "_hparams_/session_end_info")


def encoded(**event: Any) -> bytes:
    """The record of an event that happens now."""
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

    record = io.BytesIO()
    RecordWriter(record).write(Event(wall_time=time.time(), **event).SerializeToString())
    return record.getvalue()


def drop_after(place: Path, clock: int, judged_again: bool) -> None:
    """Drop the events behind a time, the final evaluation, and what every process writes of its settings.

    Args:
        place: the folder of event files.
        clock: of the checkpoint that the run goes on from.
        judged_again: whether the policy of that time will be judged again.

    Raises:
        RlabError: the disk refuses; then nothing is dropped.
    """
    found = sorted(place.glob("events.out.tfevents.*"))
    if not found:
        return
    # A crash may have left this file and those that it was made of: of equal records one stays.
    records = dict.fromkeys(record for path in found for record in _records(path))
    kept = [record for record in records if _stays(record, clock, judged_again)]
    # The oldest version record, by whose time TensorBoard sorts runs; a file that a crash left may have none.
    head = next((record for record in records if _event(record).file_version), None) or encoded(file_version=VERSION)
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


def _event(record: bytes) -> Any:
    """The event of a record; an empty one where it was damaged."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        return Event.FromString(record[LENGTH.size + CHECKSUM : -CHECKSUM])
    except DecodeError:
        return Event()


def _stays(record: bytes, clock: int, judged_again: bool) -> bool:
    event = _event(record)
    tags = [value.tag for value in event.summary.value]
    points = any(value.HasField("simple_value") or value.HasField("image") for value in event.summary.value)
    again = judged_again and event.step == clock and any(tag.startswith(JUDGED) for tag in tags)
    return points and event.step <= clock and not again and not any(tag.startswith(FINAL) for tag in tags)
