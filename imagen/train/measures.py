"""What is measured while a stage is trained: JSON lines for programs, and the same as TensorBoard's events.

Both are written in segments, from one checkpoint to the next, each named after its first step and written again while
it grows. A run that goes on from a checkpoint writes its segment anew: no step is there twice, on a disk or a store.
"""

import io
import json
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from data.lake import storage
from data.report.chart import Curve, Point, draw_chart

EVERY = 15.0  # seconds after which a growing segment is written again
LINES = "lines"
POINTS = 200  # of a loss curve, each the mean of its part


@dataclass
class Measures:
    """The measures of one run of a stage, under a folder."""

    url: str
    first: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    written: float = field(default_factory=time.monotonic)

    def begin(self, step: int) -> None:
        """A new segment, after a checkpoint or from one."""
        self.first, self.rows = step, []

    def resume(self, step: int) -> None:
        """Go on from a checkpoint: what was noted after it is noted again."""
        for name in storage.files(self.url) if storage.exists(self.url) else []:
            number = name.removesuffix(".jsonl")[-9:]
            if name.endswith(".part") or (number.isdecimal() and int(number) >= step):
                storage.remove(storage.join(self.url, name))
        self.begin(step)

    def note(self, step: int, values: dict[str, float]) -> None:
        self.rows.append({"step": step, "at": round(time.time(), 3), **values})
        if time.monotonic() - self.written > EVERY:
            self.write()

    def write(self) -> None:
        self.written = time.monotonic()
        if not self.rows:
            return
        name = f"{self.first:09d}"
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        storage.write(storage.join(self.url, LINES, f"{name}.jsonl"), lines.encode())
        storage.write(storage.join(self.url, f"events.out.tfevents.{name}"), _events(self.rows))


def read_measures(url: str) -> list[dict[str, Any]]:
    """Every row of a run, in order."""
    lines = storage.join(url, LINES)
    if not storage.exists(lines):
        return []
    names = [name for name in storage.files(lines) if name.endswith(".jsonl")]
    return [json.loads(line) for name in names for line in storage.read(storage.join(lines, name)).splitlines()]


def newest_measure(url: str) -> dict[str, Any] | None:
    """The last row of a run; none before its first was written."""
    lines = storage.join(url, LINES)
    names = [name for name in storage.files(lines) if name.endswith(".jsonl")] if storage.exists(lines) else []
    rows = storage.read(storage.join(lines, names[-1])).splitlines() if names else []
    return dict(json.loads(rows[-1])) if rows else None


def loss_curve(url: str) -> Markup | None:
    """The losses of a run as a drawing; none before there are two."""
    losses = np.array([(row["step"], row["loss"]) for row in read_measures(url) if "loss" in row])
    if len(losses) < 2:
        return None
    means = [part.mean(axis=0).tolist() for part in np.array_split(losses, min(POINTS, len(losses)))]
    return draw_chart([Curve("loss", [Point(step, loss) for step, loss in means])], "step", "loss", log=True)


def _events(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=rows[0]["at"], file_version="brain.Event:2").SerializeToString())
    for row in rows:
        values = [
            Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name not in ("step", "at")
        ]
        event = Event(wall_time=row["at"], step=row["step"], summary=Summary(value=values))
        writer.write(event.SerializeToString())
    return buffer.getvalue()
