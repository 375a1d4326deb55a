"""What lies beside a published version: its card (`README.md`), its report, and the report's histograms as a picture.

They are written after the version is there and can't undo it; Delta takes no notice of them. Card and report come last
and begin with a mark of what they were made of, so that a build finds in one look what a killed one left behind, or an
owner's new words, and nothing else is written again.
"""

import hashlib
import json
from datetime import UTC, datetime

from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import CARD, HISTOGRAMS, LAST_BUILD, REPORT
from data.publish.publish import Publish
from data.publish.versions import newest_version
from data.report.card import CardSettings, card
from data.report.examples import pick
from data.report.histogram_png import histograms
from data.report.report import report
from data.report.summary import account
from data.select.selection import Selection

PAGES = 2  # of the form of all: another one is written anew
HEAD = 200  # bytes that hold the mark


def write_beside(lake: Lake, settings: CardSettings, selection: Selection, publish: Publish, version: int) -> None:
    """Write card and report of the version that was just published, or found to be current, unless they are there."""
    url = lake.table_url(publish.table)
    digest = hashlib.sha256(f"{PAGES} {settings.model_dump_json()}".encode()).hexdigest()[:12]
    mark = f"imagen {publish.dataset}@{version} {digest}"
    if all(_marked(storage.join(url, page), mark) for page in (REPORT, CARD)):
        return
    lake = lake.snapshot()
    current = newest_version(lake, publish.dataset)
    if current is None or current.version != version:
        return  # somebody published since, and describes it
    found = account(lake, selection, publish, current, newest_version(lake, publish.dataset, below=version))
    groups = pick(lake, selection, [score.fact for score in found.scores if score.thresholds])
    if png := histograms(found):
        storage.write(storage.join(url, HISTOGRAMS), png)
    storage.write(storage.join(url, REPORT), report(found, groups, mark).encode())
    storage.write(storage.join(url, CARD), card(found, settings, url, mark).encode())


def histograms_of(lake: Lake, dataset: str) -> bytes | None:
    """As of its newest version; none where no fact differs among the pairs."""
    url = storage.join(lake.table_url(f"datasets/{dataset}"), HISTOGRAMS)
    return storage.read(url) if storage.exists(url) else None


def report_url(lake: Lake, dataset: str) -> str:
    return storage.join(lake.table_url(f"datasets/{dataset}"), REPORT)


def note_built(lake: Lake, dataset: str, version: int) -> None:
    """Also where nothing had changed: that it was looked after is what somebody wants to know in the morning."""
    said = {"version": version, "at": datetime.now(UTC).isoformat()}
    storage.write(storage.join(lake.table_url(f"datasets/{dataset}"), LAST_BUILD), json.dumps(said).encode())


def built_at(lake: Lake, dataset: str) -> datetime | None:
    """When a build of it came to a good end the last time."""
    url = storage.join(lake.table_url(f"datasets/{dataset}"), LAST_BUILD)
    return datetime.fromisoformat(json.loads(storage.read(url))["at"]) if storage.exists(url) else None


def _marked(url: str, mark: str) -> bool:
    return storage.exists(url) and f" {mark} " in storage.read(url, HEAD).decode(errors="replace").replace("\n", " ")
