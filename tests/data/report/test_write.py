"""Card and report as their readers meet them: lines that are run, a page that is parsed, and hostile captions in it."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageColor

from data.build.pipeline import make_pipeline
from data.build.recipe import Recipe
from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import REPORT
from data.lake.table import Table
from data.publish.distributions import Histogram
from data.publish.versions import newest_version, versions
from data.report.histogram_png import CUT, DROPPED, GAP, KEPT
from data.report.report import HEIGHT, WIDTH, plot_histogram
from data.report.summary import VersionSummary, summarize_version
from data.report.write import read_histograms
from data.select.thresholds import Threshold, thresholds
from tests.lakes.empty import unprobed_lake
from tests.lakes.fetched import add_fetched_pairs, build_in_process, numbered_pairs, small_recipe
from tests.servers.chromium import needs_chromium, opened
from tests.shared import copy_of

HOSTILE = [
    ("http://small.test/a.jpg", "<script>alert(1)</script> and more"),
    ("javascript:alert(document.cookie)", 'a "quoted" caption\'s onload=alert(1)'),
    ('http://small.test/"><img src=x onerror=alert(2)>', "</figcaption></style><img src=x onerror=alert(3)>"),
    ("data:text/html,<b>x</b>", "{{ 7 * 7 }} ${7*7} <!-- --> &lt;b&gt;"),
    ("http://small.test/long.jpg", "right \u202eto left and " + "long " * 400),
    ("http://small.test/one.jpg", "<svg/onload=alert(4)>"),
]
RUN = """
import json, sys
for block in json.load(sys.stdin):
    names = {}
    exec(block, names)
    print("ROWS", len(names.get("samples", names.get("rows", []))))
"""


@pytest.fixture(scope="module")
def reported_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of two versions, the second without some rows of the first and with some of its own, and their source.

    Not to be changed by a test.
    """
    folder = tmp_path_factory.mktemp("beside")
    lake, source = unprobed_lake(folder, 2), folder / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(40))
    assert build_in_process(lake, small_recipe(source, 0.2)).version == 1
    add_fetched_pairs(lake, source, [(f"{url}?", caption) for url, caption in numbered_pairs(90)])
    assert build_in_process(lake, second(source)).version == 2
    return folder


def second(source: Path) -> Recipe:
    more = "  - picture_contrast: {top: 0.9}\ncard: {license: cc-by-4.0, description: Grey pictures.}\n"
    return small_recipe(source, 0.4, more)


@pytest.fixture(scope="module")
def reported(reported_folder: Path) -> tuple[Lake, Recipe]:
    """That lake, and the recipe of its second version. Not to be changed by a test."""
    return Lake.open(str(reported_folder / "lake")), second(reported_folder / "pairs.parquet")


@pytest.fixture
def described_lake(reported: tuple[Lake, Recipe], tmp_path: Path) -> tuple[Lake, Recipe]:
    """A copy of that lake for one test, and the recipe of its second version."""
    return copy_of(reported[0], tmp_path / "lake"), reported[1]


def page(lake: Lake, name: str) -> str:
    return storage.read(storage.join(lake.table_url("datasets/small"), name)).decode()


def run_card(card: str, folder: Path) -> list[str]:
    """Run every block of Python in a card, and give how many rows each had."""
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    environment = {**os.environ, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0"}  # offline, it would refuse S3 too
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(blocks), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return re.findall(r"ROWS (\d+)", done.stdout)


@pytest.mark.slow
def test_the_lines_of_the_card_load_this_version_and_no_other(
    described_lake: tuple[Lake, Recipe], tmp_path: Path
) -> None:
    lake, _ = described_lake
    text = page(lake, "README.md").replace(*moved(lake, page(lake, "README.md")))
    storage.write(storage.join(lake.table_url("datasets/small"), "README.md"), text.encode())
    count = str(lake.table("datasets/small").count_rows())
    files = len(list(Path(lake.url, "datasets/small").glob("*/*.parquet")))
    assert files > len(lake.table("datasets/small").files()), "files of the first version are in the folder, too"
    assert run_card(text, tmp_path / "cache") == [count, count, "0", count, "0"], (
        "datasets twice, DuckDB, pandas, Polars"
    )


def moved(lake: Lake, text: str) -> tuple[str, str]:
    """What to replace in the original's card, and with what, to make it the copy's."""
    match = re.search(r'load_dataset\("(/.*?)"', text)
    assert match is not None
    return match[1], lake.table_url("datasets/small")


@dataclass(frozen=True)
class Card:
    """The card of the newest version: its text, its front matter, and what follows that."""

    text: str
    front: dict[str, Any]
    body: str
    table: Table
    recipe: Recipe


@pytest.fixture(scope="module")
def card(reported: tuple[Lake, Recipe]) -> Card:
    lake, recipe = reported
    text = page(lake, "README.md")
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    return Card(text, yaml.safe_load(front), body, lake.table("datasets/small"), recipe)


def test_the_card_lists_the_files_of_the_version_in_order(card: Card) -> None:
    (data_files,) = card.front["configs"][0]["data_files"]
    assert set(data_files["path"]) == set(card.table.files())
    names = [path.partition("/")[2] for path in data_files["path"]]
    assert names == sorted(names), "files of every build in the order of their random names"


def test_the_card_has_the_licence_and_the_categories_of_the_hub(card: Card) -> None:
    assert card.front["license"] == "cc-by-4.0"
    assert (card.front["task_categories"], card.front["size_categories"]) == (["text-to-image"], ["n<1K"])


def test_the_card_names_the_columns_and_counts_the_rows(card: Card) -> None:
    info = card.front["dataset_info"]
    kinds = {feature["name"]: feature["dtype"] for feature in info["features"]}
    assert list(kinds) == card.table.file_schema().names
    assert (kinds["image"], kinds["caption"], kinds["picture_blur"]) == ("image", "string", "float32")
    assert info["splits"][0]["num_examples"] == card.table.count_rows()


def test_the_card_says_where_the_pairs_are_from_what_dropped_them_and_who_owns_them(card: Card) -> None:
    source, criterion = card.recipe.sources[0].path, card.recipe.criteria[0].label
    for words in (
        *("Grey pictures.", "remain their owners'", "robots.txt and opt-outs", "were honoured", "`imagen forget`"),
        *(source, f"| {criterion} |", "| pairs | version", "| verdicts/small | version", "small@1", "top: 0.9", "▁"),
    ):
        assert words in card.body, words
    assert "script" not in card.text, "no caption is in the card"


class Page(HTMLParser):
    """What a browser makes of a page: its elements, their attributes, and the text that it shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: dict[str, int] = {}
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] = self.elements.get(tag, 0) + 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a version of hostile captions and URLs, the first with a picture that does not decode."""
    folder = tmp_path_factory.mktemp("hostile")
    lake, source = unprobed_lake(folder, 1), folder / "pairs.parquet"
    add_fetched_pairs(lake, source, HOSTILE, missing=0, broken=1)
    assert build_in_process(lake, small_recipe(source, 0.5)).kept > 1
    return page(lake, REPORT)


def test_hostile_captions_and_urls_become_no_elements_and_no_links(hostile_report: str) -> None:
    parsed = Page(hostile_report)
    assert not {"script", "a", "iframe", "object", "embed", "link", "form", "base"} & set(parsed.elements)
    assert not [name for name, _ in parsed.attributes if name.startswith("on") or name in ("href", "action", "srcset")]
    assert "default-src 'none'" in hostile_report


def test_the_pictures_of_a_report_are_in_it(hostile_report: str) -> None:
    sources = [value for name, value in Page(hostile_report).attributes if name == "src"]
    assert len(sources) == len(HOSTILE) - 1
    assert all(value.startswith("data:image/jpeg;base64,") for value in sources)
    assert "can't be shown" in "".join(Page(hostile_report).text), (
        "a picture that does not decode leaves the page whole"
    )


def test_hostile_captions_and_urls_are_text_in_the_report(hostile_report: str) -> None:
    text = "".join(Page(hostile_report).text)
    for url, caption in HOSTILE:
        assert caption[:100] in text, caption
        assert url in text


def test_a_long_caption_is_cut_in_the_report(hostile_report: str) -> None:
    text, caption = "".join(Page(hostile_report).text), HOSTILE[4][1]
    assert caption[:250] in text
    assert caption[:350] not in text


@pytest.fixture(scope="module")
def summary(reported: tuple[Lake, Recipe]) -> VersionSummary:
    """The second version beside the first."""
    lake, recipe = reported
    pipeline = make_pipeline(lake, recipe)
    return summarize_version(lake, pipeline.selection, pipeline.publish, *versions(lake, "small")[:2])


def test_the_summary_counts_what_came_and_what_went_by_reason(
    reported: tuple[Lake, Recipe], summary: VersionSummary
) -> None:
    record = versions(reported[0], "small")[0].record
    assert (record["added"], record["removed"]) == (sum(summary.added.values()), sum(summary.removed.values()))
    assert set(summary.added) == {"new pair"}
    assert summary.removed["picture_brightness"] > 3
    assert set(summary.removed) <= {"picture_brightness", "best 0.9 of picture_contrast"}


def test_the_summary_compares_a_score_with_that_of_the_version_before(
    reported: tuple[Lake, Recipe], summary: VersionSummary
) -> None:
    brightness = next(score for score in summary.scores if score.fact == "picture_brightness")
    assert brightness.deciles_before[0] < 0.4 <= brightness.deciles[0]
    assert brightness.ks_distance is not None
    assert brightness.ks_distance > 0.1
    assert brightness.histogram is not None
    assert sum(brightness.histogram.counts["kept"]) == versions(reported[0], "small")[0].record["kept"]


def test_the_report_shows_samples_and_says_why_rows_went(reported: tuple[Lake, Recipe]) -> None:
    html = page(reported[0], REPORT)
    assert 30 < html.count("data:image/jpeg") <= 60
    text = "".join(Page(html).text)
    for words in ("Compared with small@1", "Dropped by picture_brightness", "min 0.4", "best 0.9", "not fetched: gone"):
        assert words in text, words


def test_the_histograms_of_the_report_are_a_picture_too(reported: tuple[Lake, Recipe], summary: VersionSummary) -> None:
    png = read_histograms(reported[0], "small")
    assert png is not None
    picture = Image.open(BytesIO(png)).convert("RGB")
    histograms = [score.histogram for score in summary.scores if score.histogram]
    plots = [histogram for histogram in histograms if histogram.low < histogram.high]
    assert picture.width == 3 * (WIDTH + GAP) + GAP
    assert picture.height // (HEIGHT + GAP) >= -(-len(plots) // 3) >= 2
    colours = Counter(picture.getdata())
    assert all(colours[ImageColor.getrgb(colour)] > 1000 for colour in (KEPT, DROPPED))
    assert colours[ImageColor.getrgb(CUT)] > 50, "the thresholds"


@needs_chromium
def test_the_report_opens_in_a_browser(reported: tuple[Lake, Recipe], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(reported[0], REPORT))
    shown, console = opened(tmp_path / "report.html")
    assert console == []
    for heading in ("Funnel", "Scores", "Change"):
        assert f"<h2>{heading}</h2>" in shown


def test_a_version_before_that_was_taken_down_is_named_and_not_compared(described_lake: tuple[Lake, Recipe]) -> None:
    lake, recipe = described_lake
    now = set(lake.table("datasets/small").files())
    gone = [path for path in lake.table("datasets/small", 1).files() if path not in now]
    for path in gone:
        Path(lake.url, "datasets/small", path).unlink()
    Path(lake.url, "datasets/small", REPORT).unlink()
    assert build_in_process(lake, recipe).warning is None
    assert "small@1 can't be read any more" in "".join(Page(page(lake, REPORT)).text)


def test_nothing_is_written_again_unless_it_is_gone_or_its_words_change(described_lake: tuple[Lake, Recipe]) -> None:
    lake, recipe = described_lake
    paths = [Path(lake.url, "datasets/small", name) for name in ("README.md", REPORT)]
    first = [path.stat().st_mtime_ns for path in paths]
    assert build_in_process(lake, recipe).anything_done is False
    assert [path.stat().st_mtime_ns for path in paths] == first
    paths[1].unlink()  # as after a kill between the commit and the page
    build_in_process(lake, recipe)
    assert paths[1].exists()
    card = recipe.card.model_copy(update={"license": "cc0-1.0"})
    built_again = build_in_process(lake, recipe.model_copy(update={"card": card}))
    assert built_again.version == 2
    assert "license: cc0-1.0" in paths[0].read_text()


def test_a_report_that_cannot_be_written_is_a_warning_and_unpublishes_nothing(tmp_path: Path) -> None:
    lake, source = unprobed_lake(tmp_path, 1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(12))
    in_the_way = Path(lake.url, "datasets/small", REPORT)
    in_the_way.mkdir(parents=True)
    done = build_in_process(lake, small_recipe(source))
    assert done.version == 1
    assert done.warning is not None
    assert "could not be written" in done.warning
    assert lake.table("datasets/small").count_rows() == done.kept > 0
    in_the_way.rmdir()
    assert build_in_process(lake, small_recipe(source)).warning is None
    assert in_the_way.is_file()


def test_a_bound_on_a_column_of_the_source_is_drawn(tmp_path: Path) -> None:
    lake, source = unprobed_lake(tmp_path, 1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(12))
    rows = pq.read_table(source)
    pq.write_table(rows.append_column("punsafe", pa.array([n / 12 for n in range(12)])), source)
    sources = [{"path": str(source), "columns": {"extra": ["punsafe"]}}]
    values = {"name": "small", "sources": sources, "select": [{"extra.punsafe": {"max": 0.5}}]}
    assert build_in_process(lake, Recipe.model_validate(values)).warning is None
    assert "extra.punsafe" in page(lake, REPORT)


def test_a_version_without_a_row_has_its_pages_too(tmp_path: Path) -> None:
    lake, source = unprobed_lake(tmp_path, 1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(12))
    done = build_in_process(lake, small_recipe(source, 2.0))
    assert (done.kept, done.warning) == (0, None)
    assert "configs" not in yaml.safe_load(page(lake, "README.md").split("---")[1])
    assert "0.0%" in page(lake, REPORT)


def test_the_pinned_cut_of_a_share_is_drawn(reported: tuple[Lake, Recipe]) -> None:
    lake, recipe = reported
    selection = make_pipeline(lake, recipe).selection
    cuts = lake.table(selection.table).last_record()["cuts"]
    lines = thresholds(selection, cuts)["picture_contrast"]
    assert [line.label for line in lines] == ["best 0.9"]
    contrasts = lake.table("datasets/small").dataset().to_table(columns=["picture_contrast"])["picture_contrast"]
    assert lines[0].value == min(contrasts.to_pylist())
    assert newest_version(lake, "small", below=2) == versions(lake, "small")[1]


@pytest.mark.parametrize(
    ("right", "itself", "value", "at"),
    [(True, True, 3, 3), (True, False, 3, 4), (False, True, 3, 4), (False, False, 3, 3), (True, True, 2.5, 3)],
)
def test_a_threshold_on_integers_is_between_the_bars_that_it_parts(
    right: bool, itself: bool, value: float, at: int
) -> None:
    histogram = Histogram([float(n) for n in range(11)], {"kept": [1] * 10, "dropped": [0] * 10}, 0, 9, True)
    plot = plot_histogram(histogram, [Threshold("words", value, "min", right, itself)])
    assert plot.cuts[0].x == plot.bars[at].x
