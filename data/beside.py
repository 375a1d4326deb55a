"""What lies beside a published version: its card (`README.md`) and its report. Delta takes no notice of either.

They are written after the version is there and can't undo it. Each begins with a mark of what it was made of, so that
a build finds in one look what a killed one left behind, or an owner's new words, and nothing else is written again.
"""

import hashlib

from data import storage
from data.account import account
from data.card import CardSettings, card
from data.lake import Lake
from data.publish import Publish
from data.report import report
from data.select import Selection
from data.shown import pick
from data.versions import newest

PAGES = 1  # of the form of both: another one is written anew
CARD, REPORT = "README.md", "report.html"
HEAD = 200  # bytes that hold the mark


def write_beside(lake: Lake, settings: CardSettings, selection: Selection, publish: Publish, version: int) -> None:
    """Write card and report of the version that was just published, or found to be current, unless they are there."""
    url = lake.table_url(publish.table)
    digest = hashlib.sha256(f"{PAGES} {settings.model_dump_json()}".encode()).hexdigest()[:12]
    mark = f"imagen {publish.dataset}@{version} {digest}"
    if all(_marked(storage.join(url, page), mark) for page in (REPORT, CARD)):
        return
    lake = lake.still()
    current = newest(lake, publish.dataset)
    if current is None or current.version != version:
        return  # somebody published since, and describes it
    found = account(lake, selection, publish, current, newest(lake, publish.dataset, below=version))
    groups = pick(lake, selection, [score.fact for score in found.scores if score.thresholds])
    storage.write(storage.join(url, REPORT), report(found, groups, mark).encode())
    storage.write(storage.join(url, CARD), card(found, settings, url, mark).encode())


def report_url(lake: Lake, dataset: str) -> str:
    return storage.join(lake.table_url(f"datasets/{dataset}"), REPORT)


def _marked(url: str, mark: str) -> bool:
    return storage.exists(url) and f" {mark} " in storage.read(url, HEAD).decode(errors="replace").replace("\n", " ")
