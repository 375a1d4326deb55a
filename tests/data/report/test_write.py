"""Card and report as their readers meet them: lines that are run, a page that is parsed, and hostile captions in it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

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
from data.publish.distributions import Histogram
from data.publish.versions import newest_version, versions
from data.report.histogram_png import CUT, DROPPED, GAP, KEPT
from data.report.report import HEIGHT, WIDTH, plot_histogram
from data.report.summary import summarize_version
from data.report.write import read_histograms
from data.select.thresholds import Threshold, thresholds
from tests.lakes.fetched import add_fetched_pairs, build_in_process, numbered_pairs, small_recipe
from tests.servers.chromium import needs_chromium, opened

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
    said = {}
    exec(block, said)
    print("ROWS", len(said.get("samples", said.get("rows", []))))
"""


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a lake of two versions, the second without some rows of the first and with some of its own."""
    folder = tmp_path_factory.mktemp("beside")
    lake, source = Lake.make(str(folder / "lake"), buckets=2), folder / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(40))
    assert build_in_process(lake, small_recipe(source, 0.2)).version == 1
    add_fetched_pairs(lake, source, [(f"{url}?", caption) for url, caption in numbered_pairs(90)])
    assert build_in_process(lake, second(source)).version == 2
    return folder


def second(source: Path) -> Recipe:
    more = "  - picture_contrast: {top: 0.9}\ncard: {license: cc-by-4.0, description: Grey pictures.}\n"
    return small_recipe(source, 0.4, more)


@pytest.fixture
def described_lake(once: Path, tmp_path: Path) -> tuple[Lake, Recipe]:
    """A lake of one's own like that, and the recipe of its second version."""
    shutil.copytree(once / "lake", tmp_path / "lake")
    return Lake.open(str(tmp_path / "lake")), second(once / "pairs.parquet")


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


def test_the_lines_of_the_card_load_this_version_and_no_other(
    described_lake: tuple[Lake, Recipe], tmp_path: Path
) -> None:
    lake, _ = described_lake
    text = page(lake, "README.md").replace(*moved(lake, page(lake, "README.md")))
    storage.write(storage.join(lake.table_url("datasets/small"), "README.md"), text.encode())
    kept = str(lake.table("datasets/small").count_rows())
    files = len(list(Path(lake.url, "datasets/small").glob("*/*.parquet")))
    assert files > len(lake.table("datasets/small").files()), "files of the first version lie there too"
    assert run_card(text, tmp_path / "cache") == [kept, kept, "0", kept, "0"], "datasets twice, DuckDB, pandas, Polars"


def moved(lake: Lake, text: str) -> tuple[str, str]:
    """What the copy's lines must say in place of what the original's do."""
    found = re.search(r'load_dataset\("(/.*?)"', text)
    assert found is not None
    return found[1], lake.table_url("datasets/small")


def test_the_card_says_what_the_hub_and_a_lawyer_ask(described_lake: tuple[Lake, Recipe]) -> None:
    lake, recipe = described_lake
    text = page(lake, "README.md")
    front, rest = text.removeprefix("---\n").split("\n---\n", 1)
    said = yaml.safe_load(front)
    table = lake.table("datasets/small")
    (data_files,) = said["configs"][0]["data_files"]
    assert set(data_files["path"]) == set(table.files())
    names = [path.partition("/")[2] for path in data_files["path"]]
    assert names == sorted(names), "files of every build in the order of their random names"
    assert said["license"] == "cc-by-4.0"
    assert (said["task_categories"], said["size_categories"]) == (["text-to-image"], ["n<1K"])
    kinds = {one["name"]: one["dtype"] for one in said["dataset_info"]["features"]}
    assert list(kinds) == table.file_schema().names
    assert (kinds["image"], kinds["caption"], kinds["picture_blur"]) == ("image", "string", "float32")
    assert said["dataset_info"]["splits"][0]["num_examples"] == table.count_rows()
    for words in (
        *("Grey pictures.", "remain their owners'", "robots.txt and opt-outs", "were honoured", "`imagen forget`"),
        *(recipe.sources[0].path, f"| {recipe.criteria[0].label} |", "| pairs | version", "| verdicts/small | version"),
        *("small@1", "top: 0.9", "▁"),
    ):
        assert words in rest, words
    assert "script" not in text, "no caption is in the card"


class Page(HTMLParser):
    """What a browser would do with a page: its elements, what they point to, and the text that is seen."""

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


def test_hostile_captions_and_urls_are_text_in_the_report(tmp_path: Path) -> None:
    lake, source = Lake.make(str(tmp_path / "lake"), buckets=1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, HOSTILE, missing=0, broken=1)
    assert build_in_process(lake, small_recipe(source, 0.5)).kept > 1
    html = page(lake, REPORT)
    seen = Page(html)
    assert not {"script", "a", "iframe", "object", "embed", "link", "form", "base"} & set(seen.elements)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("href", "action", "srcset")]
    pictures = [value for name, value in seen.attributes if name == "src"]
    assert len(pictures) == len(HOSTILE) - 1
    assert all(value.startswith("data:image/jpeg;base64,") for value in pictures)
    assert "default-src 'none'" in html
    shown = "".join(seen.text)
    for url, caption in HOSTILE:
        assert caption[:100] in shown, caption
        assert url in shown
    assert "can't be shown" in shown, "a picture that does not decode is no reason for no page"
    assert HOSTILE[4][1][:250] in shown
    assert HOSTILE[4][1][:350] not in shown


def test_the_report_says_what_came_what_went_and_why(described_lake: tuple[Lake, Recipe]) -> None:
    lake, recipe = described_lake
    now, before = versions(lake, "small")[:2]
    ways = make_pipeline(lake, recipe)
    found = summarize_version(lake, ways.selection, ways.publish, now, before)
    assert (now.record["added"], now.record["removed"]) == (sum(found.added.values()), sum(found.removed.values()))
    assert set(found.added) == {"new pair"}
    assert found.removed["picture_brightness"] > 3
    assert set(found.removed) <= {"picture_brightness", "best 0.9 of picture_contrast"}
    brightness = next(score for score in found.scores if score.fact == "picture_brightness")
    assert brightness.deciles_before[0] < 0.4 <= brightness.deciles[0]
    assert brightness.ks_distance is not None
    assert brightness.ks_distance > 0.1
    assert brightness.histogram is not None
    assert sum(brightness.histogram.counts["kept"]) == now.record["kept"]
    shown = "".join(Page(page(lake, REPORT)).text)
    assert 30 < page(lake, REPORT).count("data:image/jpeg") <= 60
    for words in ("Compared with small@1", "Dropped by picture_brightness", "min 0.4", "best 0.9", "not fetched: gone"):
        assert words in shown, words


def test_the_histograms_of_the_report_are_a_picture_too(described_lake: tuple[Lake, Recipe]) -> None:
    lake, recipe = described_lake
    png = read_histograms(lake, "small")
    assert png is not None
    picture = Image.open(BytesIO(png)).convert("RGB")
    ways = make_pipeline(lake, recipe)
    found = summarize_version(lake, ways.selection, ways.publish, *versions(lake, "small")[:2])
    plots = [one.histogram for one in found.scores if one.histogram and one.histogram.low < one.histogram.high]
    assert picture.width == 3 * (WIDTH + GAP) + GAP
    assert picture.height // (HEIGHT + GAP) >= -(-len(plots) // 3) >= 2
    colours = Counter(picture.getdata())
    assert all(colours[ImageColor.getrgb(colour)] > 1000 for colour in (KEPT, DROPPED))
    assert colours[ImageColor.getrgb(CUT)] > 50, "the thresholds"


@needs_chromium
def test_the_report_opens_in_a_browser(described_lake: tuple[Lake, Recipe], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(described_lake[0], REPORT))
    shown, console = opened(tmp_path / "report.html")
    assert console == []
    for heading in ("Funnel", "Scores", "Change"):
        assert f"<h2>{heading}</h2>" in shown


def test_a_version_before_that_was_taken_down_is_told_not_compared(described_lake: tuple[Lake, Recipe]) -> None:
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


def test_a_report_that_cannot_be_written_is_told_and_unpublishes_nothing(tmp_path: Path) -> None:
    lake, source = Lake.make(str(tmp_path / "lake"), buckets=1), tmp_path / "pairs.parquet"
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
    lake, source = Lake.make(str(tmp_path / "lake"), buckets=1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(12))
    rows = pq.read_table(source)
    pq.write_table(rows.append_column("punsafe", pa.array([n / 12 for n in range(12)])), source)
    sources = [{"path": str(source), "columns": {"extra": ["punsafe"]}}]
    values = {"name": "small", "sources": sources, "select": [{"extra.punsafe": {"max": 0.5}}]}
    assert build_in_process(lake, Recipe.model_validate(values)).warning is None
    assert "extra.punsafe" in page(lake, REPORT)


def test_a_version_without_a_row_has_its_pages_too(tmp_path: Path) -> None:
    lake, source = Lake.make(str(tmp_path / "lake"), buckets=1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(12))
    done = build_in_process(lake, small_recipe(source, 2.0))
    assert (done.kept, done.warning) == (0, None)
    assert "configs" not in yaml.safe_load(page(lake, "README.md").split("---")[1])
    assert "0.0%" in page(lake, REPORT)


def test_the_pinned_cut_of_a_share_is_drawn(described_lake: tuple[Lake, Recipe]) -> None:
    lake, recipe = described_lake
    selection = make_pipeline(lake, recipe).selection
    cuts = lake.table(selection.table).last_record()["cuts"]
    drawn = thresholds(selection, cuts)["picture_contrast"]
    assert [one.label for one in drawn] == ["best 0.9"]
    kept = lake.table("datasets/small").dataset().to_table(columns=["picture_contrast"])["picture_contrast"]
    assert drawn[0].value == min(kept.to_pylist())
    assert newest_version(lake, "small", below=2) == versions(lake, "small")[1]


@pytest.mark.parametrize(
    ("right", "itself", "value", "at"),
    [(True, True, 3, 3), (True, False, 3, 4), (False, True, 3, 4), (False, False, 3, 3), (True, True, 2.5, 3)],
)
def test_a_threshold_on_whole_numbers_lies_between_the_bars_that_it_parts(
    right: bool, itself: bool, value: float, at: int
) -> None:
    histogram = Histogram([float(n) for n in range(11)], {"kept": [1] * 10, "dropped": [0] * 10}, 0, 9, True)
    drawn = plot_histogram(histogram, [Threshold("words", value, "min", right, itself)])
    assert drawn.cuts[0].x == drawn.bars[at].x
