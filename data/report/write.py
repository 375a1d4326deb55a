"""Writes the pages of a published version next to its table: card (`README.md`), report, and histograms as a PNG.

The pages are written after the version's commit, so an error in them can't undo it. Delta ignores these files. Card and
report are written last, and start with a marker line that identifies version and settings. So a build can tell cheaply
whether the pages are missing (after an interrupted build) or outdated (after a change of the recipe's `card`).
Otherwise nothing is written.
"""

import hashlib
import json
from datetime import UTC, datetime

from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import CARD, HISTOGRAMS, LAST_BUILD, REPORT
from data.publish.publish import Publish
from data.publish.versions import newest_version
from data.report.card import CardSettings, render_card
from data.report.examples import pick_examples
from data.report.histogram_png import draw_histograms
from data.report.report import render_report
from data.report.summary import summarize_version
from data.select.selection import Selection

PAGE_FORMAT = 3  # of both pages; pages of another format are written again
HEAD = 200  # bytes at the start of a page that contain the marker


def write_pages(lake: Lake, settings: CardSettings, selection: Selection, publish: Publish, version: int) -> None:
    """Write the pages of the current version, unless they are up to date.

    If another build has published since, nothing is written, because that build describes its own version.
    """
    url = lake.table_url(publish.table)
    digest = hashlib.sha256(f"{PAGE_FORMAT} {settings.model_dump_json()}".encode()).hexdigest()[:12]
    mark = f"imagen {publish.dataset}@{version} {digest}"
    if all(_has_mark(storage.join(url, page), mark) for page in (REPORT, CARD)):
        return
    lake = lake.snapshot()
    current = newest_version(lake, publish.dataset)
    if current is None or current.version != version:
        return
    before = newest_version(lake, publish.dataset, below=version)
    summary = summarize_version(lake, selection, publish, current, before)
    groups = pick_examples(lake, selection, [score.fact for score in summary.scores if score.thresholds])
    if png := draw_histograms(summary):
        storage.write(storage.join(url, HISTOGRAMS), png)
    storage.write(storage.join(url, REPORT), render_report(summary, groups, mark).encode())
    storage.write(storage.join(url, CARD), render_card(summary, settings, url, mark).encode())


def read_histograms(lake: Lake, dataset: str) -> bytes | None:
    """Read the histograms of a dataset's newest version as PNG. None if there are none."""
    url = storage.join(lake.table_url(f"datasets/{dataset}"), HISTOGRAMS)
    return storage.read(url) if storage.exists(url) else None


def report_url(lake: Lake, dataset: str) -> str:
    """Return the URL of a dataset's report, whether the report exists or not."""
    return storage.join(lake.table_url(f"datasets/{dataset}"), REPORT)


def record_build(lake: Lake, dataset: str, version: int) -> None:
    """Record that a build has just finished. A build that changed nothing counts too: the dataset is up to date."""
    record = {"version": version, "at": datetime.now(UTC).isoformat()}
    storage.write(storage.join(lake.table_url(f"datasets/{dataset}"), LAST_BUILD), json.dumps(record).encode())


def last_build_at(lake: Lake, dataset: str) -> datetime | None:
    """Return the time when a build of the dataset last finished, or None if none has finished."""
    url = storage.join(lake.table_url(f"datasets/{dataset}"), LAST_BUILD)
    return datetime.fromisoformat(json.loads(storage.read(url))["at"]) if storage.exists(url) else None


def _has_mark(url: str, mark: str) -> bool:
    return storage.exists(url) and f" {mark} " in storage.read(url, HEAD).decode(errors="replace").replace("\n", " ")
