"""The measures of a stage's training, as JSON lines for programs and as TensorBoard events.

Both are written in segments. A segment covers the steps from one checkpoint to the next, is named by its first step and
is rewritten while it grows. A run that continues from a checkpoint rewrites its segment, so no step is there twice, on
a disk or an object store.
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

WRITE_SECONDS = 15.0  # after which a growing segment is written again
LINES = "lines"
POINTS = 200  # of a loss curve, each the mean of several steps


@dataclass
class Measures:
    """Writes the measures of one run of a stage under a URL."""

    url: str
    first: int = 0  # the step that the segment begins after
    rows: list[dict[str, Any]] = field(default_factory=list)
    written: float = field(default_factory=time.monotonic)

    def begin(self, step: int) -> None:
        """Begin a new segment, at a checkpoint."""
        self.first, self.rows = step, []

    def resume(self, step: int) -> None:
        """Continue from a checkpoint: remove the segments after it."""
        names = storage.files(self.url) if storage.exists(self.url) else []
        for name in names:
            number = name.removesuffix(".jsonl")[-9:]
            if name.endswith(".part") or (number.isdecimal() and int(number) >= step):
                storage.remove(storage.join(self.url, name))
        self.begin(step)

    def note(self, step: int, values: dict[str, float]) -> None:
        """Add a step's values; every 15 seconds the segment is written."""
        self.rows.append({"step": step, "at": round(time.time(), 3), **values})
        if time.monotonic() - self.written > WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the segment."""
        self.written = time.monotonic()
        if not self.rows:
            return
        name = f"{self.first:09d}"
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        storage.write(storage.join(self.url, LINES, f"{name}.jsonl"), lines.encode())
        storage.write(storage.join(self.url, f"events.out.tfevents.{name}"), _events(self.rows))


def read_measures(url: str) -> list[dict[str, Any]]:
    """Return all rows of a run, in order."""
    lines = storage.join(url, LINES)
    if not storage.exists(lines):
        return []
    rows = []
    for name in storage.files(lines):
        if name.endswith(".jsonl"):
            rows += [json.loads(line) for line in storage.read(storage.join(lines, name)).splitlines()]
    return rows


def newest_measure(url: str) -> dict[str, Any] | None:
    """Return the last row of a run, or None before the first was written."""
    lines = storage.join(url, LINES)
    if not storage.exists(lines):
        return None
    names = [name for name in storage.files(lines) if name.endswith(".jsonl")]
    rows = storage.read(storage.join(lines, names[-1])).splitlines() if names else []
    return dict(json.loads(rows[-1])) if rows else None


def loss_curve(url: str) -> Markup | None:
    """Draw the losses of a run as an SVG chart; None if there are fewer than two."""
    losses = np.array([(row["step"], row["loss"]) for row in read_measures(url) if "loss" in row])
    if len(losses) < 2:
        return None
    means = [part.mean(axis=0).tolist() for part in np.array_split(losses, min(POINTS, len(losses)))]
    return draw_chart([Curve("loss", [Point(step, loss) for step, loss in means])], "step", "loss", log=True)


def _events(rows: list[dict[str, Any]]) -> bytes:
    """Convert rows to a file of TensorBoard events."""
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
