"""Ingestion of sources: every format; rows that can't be read are rejected; no file is read twice."""

import csv
import gzip
import io
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.build.recipe import parse_recipe
from data.errors import RecipeError, SourceError, SourceUnreachable
from data.lake import storage
from data.lake.lake import Lake
from data.lake.schemas import PAIRS, bucket_of, pair_id
from data.lake.shard_file import write_file
from data.lake.table import Table
from data.sources.formats import read_rows
from data.sources.ingest import IngestSummary, ingest
from data.sources.presets import PRESETS
from data.sources.rows import BATCH, REJECT_CHARACTERS, Layout, RowCollector
from data.sources.sources import Columns, Source, check_sources, list_files
from tests.conftest import Bucket
from tests.lakes.empty import NOW, reject_reasons, rows_of, stored_pairs, unprobed_lake

PAIR_ROWS = [("http://a.test/1", "a cat"), ("http://a.test/2", "ein Hündchen, 犬 🐕"), ("http://a.test/3", 'say "x"')]


def ingest_paths(lake: Lake, *paths: Path | str, **more: Any) -> IngestSummary:
    return ingest(lake, tuple(Source(path=str(path), **more) for path in paths), NOW)


def write_pairs(
    path: Path, pairs: list[tuple[str, str]] = PAIR_ROWS, names: tuple[str, str] = ("url", "caption")
) -> Path:
    """A table of pairs in the format that the path's ending says."""
    kind = path.suffixes[0]
    if kind == ".parquet":
        pq.write_table(pa.table({name: [row[n] for row in pairs] for n, name in enumerate(names)}), path)
        return path
    text = io.StringIO()
    if kind in (".csv", ".tsv"):
        csv.writer(text, delimiter="," if kind == ".csv" else "\t").writerows([names, *pairs])
    else:
        text.writelines(json.dumps(dict(zip(names, pair, strict=True))) + "\n" for pair in pairs)
    raw = text.getvalue().encode()
    if path.suffix == ".gz":
        raw = gzip.compress(raw[:50]) + gzip.compress(raw[50:])  # in two members, as appended logs are
    if path.suffix == ".zst":
        raw = pa.compress(raw, "zstd", asbytes=True)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    "ending", ["csv", "tsv", "jsonl", "ndjson", "parquet", "csv.gz", "csv.zst", "tsv.gz", "jsonl.gz", "jsonl.zst"]
)
def test_every_kind_of_file_gives_the_same_pairs(tmp_path: Path, empty_lake: Lake, ending: str) -> None:
    path = write_pairs(tmp_path / f"pairs.{ending}", names=("URL", "TEXT"))
    columns = {"url": "URL", "caption": "TEXT"}
    check_sources([Source(path=str(path), columns=Columns(**columns))])
    assert ingest_paths(empty_lake, path, columns=columns) == IngestSummary(rows=3, new=3, files_read=1)
    assert stored_pairs(empty_lake) == PAIR_ROWS
    assert ingest_paths(empty_lake, path, columns=columns) == IngestSummary(files_skipped=1)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=20, deadline=None)
@given(pairs=st.lists(st.tuples(texts.filter(str.strip), texts), min_size=1, max_size=8, unique=True))
def test_ids_buckets_and_texts_are_what_python_says(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    lake = unprobed_lake(folder, buckets=2)
    ingest_paths(lake, write_pairs(folder / "p.parquet", pairs), write_pairs(folder / "p.jsonl", pairs))
    assert stored_pairs(lake) == sorted(pairs)
    for bucket in lake.buckets:
        for row in lake.table("pairs").dataset(bucket).to_table().to_pylist():
            assert row["id"] == pair_id(row["url"], row["caption"])
            assert bucket_of(row["id"], 2) == bucket


def test_a_row_that_is_there_twice_is_the_first_one(tmp_path: Path, empty_lake: Lake) -> None:
    rows = [{"url": "http://a.test/1", "caption": "c", "n": n} for n in range(5)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ingest_paths(empty_lake, tmp_path / "p.jsonl", columns={"extra": ["n"]}).new == 1
    assert rows_of(empty_lake, "pairs")[0]["extra"] == '{"n":0}'


BROKEN = {
    "a.jsonl": (
        b'{"url": "http://a/1", "caption": "c"}\n{"url": "http://a/2", "cap\n\n{"url": 5}\n[1]\n{"caption": "c"}\n'
        b'{"url": " "}\n{"url": "http://a/3", "caption": ["c"]}\n{"url": "http://a/\xff"}\n'
        b'{"url": "http://a/\\ud800"}\n' + b"[" * 100_000 + b"\n" + b'{"url": "' + b"x" * 2_000_000 + b'"}\n'
        b'{"url": "http://a/4"}',
        [("http://a/1", "c"), ("http://a/4", "")],
        {
            2: "the line is no JSON: ",
            4: "the URL is a number, not text",
            5: "the line is no JSON object",
            6: "no URL",
            7: "no URL",
            8: "the caption is a list, not text",
            9: "the line is no JSON: 'utf-8' codec",
            10: "the URL is not UTF-8 text",
            11: "the line is no JSON: maximum recursion",
            12: "the line is no JSON: Unterminated string",
        },
    ),
    "b.csv": (
        b"\xef\xbb\xbfurl,caption\r\nhttp://a/1,c\r\nhttp://a/2\r\nhttp://a/3,\"two\nlines, quoted\"\r\n,no\r\n\r\n"
        b"http://a/5,\xff\r\nhttp://a/6,a,b\r\nhttp://a/7,NUL\x00\r\nhttp://a/8,\"" + b"x" * 200_000 + b"\n"
        b'http://a/9,fine\n',
        [("http://a/1", "c"), ("http://a/3", "two\nlines, quoted"), ("http://a/7", "NUL\0"), ("http://a/9", "fine")],
        {
            3: "the line is malformed: 1 fields, not 2",
            6: "no URL",
            8: "the caption is not UTF-8 text",
            9: "the line is malformed: 3 fields, not 2",
            11: "the line is malformed: field larger than field limit",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_lines_that_cannot_be_read_are_set_aside_with_the_reason(tmp_path: Path, empty_lake: Lake, name: str) -> None:
    content, good, bad = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    summary = ingest_paths(empty_lake, tmp_path / name)
    assert stored_pairs(empty_lake) == good
    rejects = {row["row"]: row for row in rows_of(empty_lake, "rejects")}
    assert {number: row["reason"][: len(bad[number])] for number, row in rejects.items()} == bad
    assert all(row["content"] and len(row["content"]) <= REJECT_CHARACTERS for row in rejects.values())
    assert (summary.rows, summary.new, summary.unreadable) == (len(good) + len(bad), len(good), len(bad))
    assert rows_of(empty_lake, "files")[0]["rejected"] == len(bad)


def test_rows_of_parquet_that_cannot_be_read_are_set_aside_with_the_reason(tmp_path: Path, empty_lake: Lake) -> None:
    urls = pa.array([b"http://a/1", None, b" ", b"http://\xff", b"http://a/5", b"http://a/6"], pa.binary())
    captions = pa.array(["c", "c", "c", "c", None, "d"]).dictionary_encode()
    pq.write_table(pa.table({"url": urls, "caption": captions}), tmp_path / "a.parquet", row_group_size=2)
    raw = pa.Array.from_buffers(pa.string(), 1, [None, *pa.array([b"a\xfe"], pa.binary()).buffers()[1:]])
    pq.write_table(pa.table({"url": ["http://a/7"], "caption": raw}), tmp_path / "b.parquet")
    assert ingest_paths(empty_lake, tmp_path / "*.parquet") == IngestSummary(rows=7, new=3, unreadable=4, files_read=2)
    assert stored_pairs(empty_lake) == [("http://a/1", "c"), ("http://a/5", ""), ("http://a/6", "d")]
    assert reject_reasons(empty_lake) == [
        *((1, "the caption is not UTF-8 text"), (2, "no URL"), (3, "no URL")),
        (4, "the URL is not UTF-8 text"),
    ]


@pytest.mark.parametrize("depth", [300, 700, 990])
def test_a_row_that_is_nested_without_end_harms_no_other(tmp_path: Path, empty_lake: Lake, depth: int) -> None:
    deep = '{"url": "http://a/1", "caption": "c", "x": ' + "[" * depth + "1e999" + "]" * depth + "}\n"
    (tmp_path / "a.jsonl").write_text(deep + '{"url": "http://a/2", "caption": "c"}\n')
    ingest_paths(empty_lake, tmp_path / "a.jsonl", columns={"extra": "all"})
    assert ("http://a/2", "c") in stored_pairs(empty_lake)
    assert len(stored_pairs(empty_lake)) == 2 or [row for row, _ in reject_reasons(empty_lake)] == [1]


def test_of_many_bad_rows_all_are_counted_and_the_first_kept(
    tmp_path: Path, empty_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.sources.ingest.MAX_REJECTS", 5)
    (tmp_path / "a.jsonl").write_text('{"url": "http://a/1", "caption": "c"}\n' + "no\n" * 100)
    assert ingest_paths(empty_lake, tmp_path / "a.jsonl").unreadable == 100
    assert [row for row, _ in sorted(reject_reasons(empty_lake))] == [2, 3, 4, 5, 6]


def test_extra_columns_are_carried_as_json(tmp_path: Path, empty_lake: Lake) -> None:
    table = {
        "url": ["http://a/1", "http://a/2"],
        "caption": ["c", "d"],
        "punsafe": pa.array([0.5, float("nan")]),
        "LICENSE": ["CC0 'é\"", None],
        "it's": [[[0.5, 1.0]], []],
        "at": pa.array([0, 1], pa.timestamp("s")),
        "picture": pa.array([b"\xff", b""]),
        "_at": ["{}", "{}"],
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("url,caption,n,name,zip,none\nhttp://a/3,7,-1.5e3,x,007,\n")
    (tmp_path / "c.jsonl").write_text(
        '{"url": "http://a/4", "caption": "", "n": NaN, "big": 1e999, "o": [{"a": 1e999}], "half": "\\ud800", "_at": 1}'
    )
    ingest_paths(empty_lake, tmp_path / "*.parquet", tmp_path / "b.csv", tmp_path / "c.jsonl", columns={"extra": "all"})
    extras = {row["url"][-1]: json.loads(row["extra"]) for row in rows_of(empty_lake, "pairs")}
    assert extras == {
        "1": {"punsafe": 0.5, "LICENSE": "CC0 'é\"", "it's": [[0.5, 1.0]], "at": "1970-01-01 00:00:00"},
        "2": {"punsafe": None, "LICENSE": None, "it's": [], "at": "1970-01-01 00:00:01"},
        "3": {"n": -1500.0, "name": "x", "zip": "007"},
        "4": {"big": None, "o": [{"a": None}], "half": "?"},
    }
    assert ingest_paths(empty_lake, write_pairs(tmp_path / "plain.csv", [("http://b/1", "c")])).new == 1
    assert {row["extra"] for row in rows_of(empty_lake, "pairs") if "//b/" in row["url"]} == {None}


def test_a_digest_is_taken_where_it_is_one(tmp_path: Path, empty_lake: Lake) -> None:
    table = {
        "url": [f"http://a/{n}" for n in range(4)],
        "caption": ["c"] * 4,
        "h": ["A" * 64, "a" * 63, None, "x" * 64],
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    ingest_paths(empty_lake, tmp_path / "a.parquet", columns={"sha256": "h"})
    assert [row["sha256"] for row in sorted(rows_of(empty_lake, "pairs"), key=lambda row: row["url"])] == [
        *("a" * 64, None, None, None)
    ]


def write_published(preset: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write a file of one row in the schema of a preset. Returns its path, and the extra columns that are carried."""
    layout = PRESETS[preset]
    if layout.names:
        path = folder / f"{preset}.tsv"
        row = {"url": "http://a.test/1", "caption": '"a cat'}
        path.write_text("\t".join(row[name] for name in layout.names) + "\n")
        return path, {}
    extra = {name: n / 4 for n, name in enumerate(layout.extra) if name not in ("LICENSE", "aesthetic", "uid")}
    extra |= {"uid": "x"} if preset == "datacomp" else {}
    row = {layout.url: "http://a.test/1", layout.caption: '"a cat', **extra, "other": 1}
    row |= {layout.sha256: "b" * 64} if layout.sha256 else {}
    pq.write_table(pa.Table.from_pylist([row]), folder / f"{preset}.parquet")
    return folder / f"{preset}.parquet", extra


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_reads_what_was_published(tmp_path: Path, empty_lake: Lake, preset: str) -> None:
    path, extra = write_published(preset, tmp_path)
    check_sources([Source(path=str(path), preset=preset)])  # type: ignore[arg-type]
    assert ingest_paths(empty_lake, path, preset=preset).new == 1
    row = rows_of(empty_lake, "pairs")[0]
    assert (row["url"], row["caption"]) == ("http://a.test/1", '"a cat')
    assert json.loads(row["extra"] or "{}") == extra
    assert row["sha256"] == ("b" * 64 if preset == "datacomp" else None)


def test_a_header_that_was_put_before_a_set_without_one_is_no_pair(tmp_path: Path, empty_lake: Lake) -> None:
    (tmp_path / "cc3m.tsv").write_text('caption\turl\na "cat\thttp://a.test/1\n')
    assert ingest_paths(empty_lake, tmp_path / "cc3m.tsv", preset="cc3m").new == 1
    assert stored_pairs(empty_lake) == [("http://a.test/1", 'a "cat')]


def test_what_the_recipe_says_goes_before_the_preset() -> None:
    source = Source(path="x", preset="datacomp", columns=Columns(caption="better", extra=("uid",)))
    assert source.layout == Layout("url", "better", "sha256", extra=("uid",))
    with pytest.raises(RecipeError, match=r"line 4: sources\.0\.preset: Input should be 'laion2b'"):
        parse_recipe("name: x\nsources:\n  - path: y\n    preset: laion5b\n", "mine.yaml")
    with pytest.raises(RecipeError, match=r"sources\.0\.columns\.extra.*_at is reserved"):
        parse_recipe("name: x\nsources:\n  - path: y\n    columns: {extra: [_at]}\n", "mine.yaml")


def test_a_large_file_is_not_held_whole(tmp_path: Path) -> None:
    count = 5 * BATCH
    table = pa.table({"url": [f"http://a.test/{n:0100}" for n in range(count)], "caption": ["a cat"] * count})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=count, use_dictionary=False)
    size = table.nbytes
    del table
    before, sizes, most = pa.total_allocated_bytes(), [], 0
    for rows, _ in read_rows(str(tmp_path / "a.parquet"), Layout()):
        most = max(most, pa.total_allocated_bytes() - before)
        sizes.append(rows.num_rows)
    assert sum(sizes) == count
    assert max(sizes) <= BATCH
    assert most < size


def test_a_known_file_is_not_opened_again_and_a_new_or_changed_one_is(tmp_path: Path, empty_lake: Lake) -> None:
    first, second = (write_pairs(tmp_path / f"{n}.parquet", [(f"http://a.test/{n}", "c")]) for n in "12")
    assert ingest_paths(empty_lake, tmp_path / "*.parquet") == IngestSummary(rows=2, new=2, files_read=2)
    stamp, size = first.stat().st_mtime_ns, first.stat().st_size
    versions = {name: empty_lake.table(name).version for name in ("pairs", "files")}
    first.write_bytes(b"\0" * size)
    os.utime(first, ns=(stamp, stamp))
    source = Source(path=str(tmp_path / "*.parquet"))
    check_sources([source], empty_lake)
    assert ingest_paths(empty_lake, tmp_path / "*.parquet") == IngestSummary(files_skipped=2), (
        "as it looks the same, nobody looked inside"
    )
    assert {name: empty_lake.table(name).version for name in versions} == versions
    write_pairs(tmp_path / "3.parquet", [("http://a.test/3", "c")])
    write_pairs(second, [("http://a.test/2", "c"), ("http://a.test/2", "new")])
    check_sources([source], empty_lake)
    assert ingest_paths(empty_lake, tmp_path / "*.parquet") == IngestSummary(
        rows=3, new=2, files_read=2, files_skipped=1
    )
    assert [
        (row["path"][-9:], row["new"]) for row in sorted(rows_of(empty_lake, "files"), key=lambda r: r["path"])
    ] == [*(("1.parquet", 1), ("2.parquet", 1), ("2.parquet", 1), ("3.parquet", 1))]
    first.touch()
    with pytest.raises(SourceError, match=r"1\.parquet can't be read"):
        check_sources([source], empty_lake)


def test_one_file_read_by_other_columns_is_another_file(tmp_path: Path, empty_lake: Lake) -> None:
    pq.write_table(pa.table({"url": ["http://a/1"], "alt": ["a"], "long": ["a b"]}), tmp_path / "a.parquet")
    sources = tuple(Source(path=str(tmp_path / "a.parquet"), columns=Columns(caption=name)) for name in ("alt", "long"))
    assert ingest(empty_lake, sources, NOW).new == 2
    assert ingest(empty_lake, sources, NOW) == IngestSummary(files_skipped=2)


def test_a_build_killed_before_it_noted_its_files_reads_them_again_and_adds_nothing(
    tmp_path: Path, empty_lake: Lake
) -> None:
    write_pairs(tmp_path / "a.csv")
    ingest_paths(empty_lake, tmp_path / "a.csv")
    storage.remove(empty_lake.table_url("files"))
    assert ingest_paths(empty_lake, tmp_path / "a.csv") == IngestSummary(rows=3, new=0, files_read=1)
    assert stored_pairs(empty_lake) == PAIR_ROWS


def write_six_files(folder: Path) -> list[tuple[str, str]]:
    """CSV files of 50 pairs each; all the pairs."""
    parts = [[(f"http://a.test/{n}/{m}", "c") for m in range(50)] for n in range(6)]
    for n, part in enumerate(parts):
        write_pairs(folder / f"{n}.csv", part)
    return sorted(pair for part in parts for pair in part)


def test_rows_of_many_files_are_committed_together(tmp_path: Path, empty_lake: Lake) -> None:
    pairs = write_six_files(tmp_path)
    assert ingest_paths(empty_lake, tmp_path / "*.csv") == IngestSummary(rows=300, new=300, files_read=6)
    assert empty_lake.table("pairs").version == 1, "one commit after the table was made"
    assert len(empty_lake.table("pairs").files()) == empty_lake.config.buckets
    assert stored_pairs(empty_lake) == pairs


def test_more_rows_than_a_file_takes_are_committed_part_by_part(
    tmp_path: Path, empty_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.sources.ingest.ROWS_PER_FILE", 25)
    pairs = write_six_files(tmp_path)
    assert ingest_paths(empty_lake, tmp_path / "*.csv") == IngestSummary(rows=300, new=300, files_read=6)
    assert empty_lake.table("pairs").version == 3
    assert stored_pairs(empty_lake) == pairs
    assert {row["new"] for row in rows_of(empty_lake, "files")} == {50}


def test_rows_that_wait_on_disk_are_the_same_as_those_in_memory(
    tmp_path: Path, empty_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(6):
        write_pairs(tmp_path / f"{n}.csv", [(f"http://a.test/{m % (n + 40)}", f"c {n % 2}") for m in range(60)])
    wanted = {pair for n in range(6) for pair in [(f"http://a.test/{m % (n + 40)}", f"c {n % 2}") for m in range(60)]}
    monkeypatch.setattr("data.sources.spill.IN_MEMORY", 10_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ingest_paths(empty_lake, tmp_path / "*.csv")
    assert stored_pairs(empty_lake) == sorted(wanted)
    assert [row["new"] for row in sorted(rows_of(empty_lake, "files"), key=lambda row: row["path"])] == [
        40,
        41,
        2,
        2,
        2,
        2,
    ]
    assert not list(tmp_path.glob("imagen-*")), "nothing is left behind"


def test_a_broken_file_among_many_is_set_aside_and_the_others_are_read(tmp_path: Path, empty_lake: Lake) -> None:
    write_pairs(tmp_path / "1.csv")
    pairs = [(f"http://b.test/{n}", f"caption {n}") for n in range(60_000)]
    content = write_pairs(tmp_path / "2.parquet", pairs).read_bytes()
    (tmp_path / "2.parquet").write_bytes(content[:100] + b"\xff" * 2_000 + content[2_100:])  # its footer is right
    packed = write_pairs(tmp_path / "3.csv.gz", pairs).read_bytes()
    (tmp_path / "3.csv.gz").write_bytes(packed[: len(packed) // 2])
    write_pairs(tmp_path / "4.csv", [("http://c.test/1", "c")])
    paths = [tmp_path / f"{n}*" for n in "1234"]
    check_sources([Source(path=str(path)) for path in paths])
    summary = ingest_paths(empty_lake, *paths)
    assert summary.files_read == 4
    urls = {url for url, _ in stored_pairs(empty_lake)}
    assert {"http://a.test/1", "http://c.test/1", "http://b.test/0"} <= urls, "and the start of the one that breaks off"
    assert 4 + 1_000 < len(urls) < 60_000
    assert [row for row, _ in reject_reasons(empty_lake)] == [None, None]
    assert all("can't be read" in reason for _, reason in reject_reasons(empty_lake))
    assert ingest_paths(empty_lake, *paths) == IngestSummary(files_skipped=4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 and then nothing", "a.parquet can't be read: "),
        ("a.csv.gz", b"not packed", "a.csv.gz can't be read: "),
        ("a.csv.zst", b"not packed", "a.csv.zst can't be read: "),
        ("a.tar", b"no tar" * 1000, "a.tar can't be read: "),
        ("a.jsonl", b"[\n{},\n{}]\n", "can't be read: row 1: the line is no JSON: "),
        ("a.jsonl", b'{"link": "x"}\n', r"has no column 'url' for url; it has link\. Name it in the recipe: "),
        ("a.csv", b"url,text\nx,y\n", r"has no column 'caption' for caption; it has url, text\."),
        ("a.csv", b"url,caption\n", "holds no rows"),
        ("a.txt", b"", r"Known endings: \.parquet, \.csv, \.tsv, \.jsonl, \.ndjson, \.tar, \.csv\.gz, "),
        ("a.parquet.gz", b"", "Known endings"),
    ],
)
def test_a_file_that_cannot_serve_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        check_sources([Source(path=str(tmp_path / name))])


def test_columns_that_are_missing_or_no_text_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": [1], "caption": ["c"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="column 'url' holds int64, not text"):
        check_sources([Source(path=str(tmp_path / "a.parquet"))])
    path = write_pairs(tmp_path / "b.parquet")
    with pytest.raises(SourceError, match="has no column 'punsave' for extra"):
        check_sources([Source(path=str(path), columns=Columns(extra=("punsave",)))])
    with pytest.raises(SourceError, match="has no column 'digest' for sha256"):
        check_sources([Source(path=str(path), columns=Columns(sha256="digest"))])


def test_a_file_that_cannot_be_reached_is_no_broken_file(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="can't be reached"):
        list(read_rows(str(tmp_path / "gone.parquet"), Layout()))
    with pytest.raises(SourceUnreachable, match="can't be reached"):
        list(read_rows(str(tmp_path / "gone.csv"), Layout()))


class Origin(BaseHTTPRequestHandler):
    """A web server that has `good.csv`, and says of `bad.csv` that it has it."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "32")
        self.end_headers()

    def do_GET(self) -> None:
        good = "good" in self.path
        self.send_response(200 if good else 503)
        body = b"url,caption\nhttp://a.test/1,good\n" if good else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_store_that_does_not_answer_costs_nothing_that_was_read(tmp_path: Path, empty_lake: Lake) -> None:
    first, last = write_pairs(tmp_path / "1.csv"), write_pairs(tmp_path / "2.csv", [("http://b.test/1", "c")])
    with ThreadingHTTPServer(("127.0.0.1", 0), Origin) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(SourceUnreachable, match=r"bad\.csv can't be reached: 503"):
            ingest_paths(empty_lake, first, f"{root}/good.csv", f"{root}/bad.csv", last)
        server.shutdown()
    assert stored_pairs(empty_lake) == sorted([*PAIR_ROWS, ("http://a.test/1", "good")])
    assert {Path(row["path"]).name for row in rows_of(empty_lake, "files")} == {"1.csv", "good.csv"}


def test_a_lake_made_before_gets_the_new_columns(tmp_path: Path, empty_lake: Lake) -> None:
    old = pa.schema([field for field in PAIRS if field.name not in ("extra", "sha256", "replaces")])
    table = Table.make("pairs", empty_lake.table_url("pairs"), old)
    id = pair_id(*PAIR_ROWS[0])
    row = {"id": id, "url": PAIR_ROWS[0][0], "caption": PAIR_ROWS[0][1], "source": "s", "first_seen": NOW}
    table.append([write_file(table.url, bucket_of(id, 4), pa.Table.from_pylist([row], old))])
    assert ingest_paths(empty_lake, write_pairs(tmp_path / "a.csv")).new == 2
    assert empty_lake.table("pairs").file_schema().names == PAIRS.names
    assert stored_pairs(empty_lake) == PAIR_ROWS
    assert {row["extra"] for row in rows_of(empty_lake, "pairs")} == {None}


def test_a_file_names_itself_the_same_however_it_was_found(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "a[1].csv")
    alone = list_files(Source(path=str(path)))
    assert alone == list_files(Source(path=str(tmp_path / "*.csv"))) == list_files(Source(path=f"file://{path}"))
    assert [file.id for file in alone] == [file.id for file in list_files(Source(path=str(tmp_path)))]


@settings(max_examples=50, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(["url", "caption", "n"]), st.none() | st.text(max_size=5) | st.floats()))
def test_every_row_is_either_read_or_set_aside(fields: dict[str, Any]) -> None:
    sieve = RowCollector(Layout(extra="all"))
    sieve.add(1, fields)
    rows, rejects = sieve.take()
    assert rows.num_rows + len(rejects) == 1
    assert (rows.num_rows == 1) == (
        isinstance(fields.get("url"), str)
        and bool(fields["url"].strip())
        and not isinstance(fields.get("caption"), float)
    )


def test_sources_on_s3_are_read_as_on_disk(tmp_path: Path, empty_lake: Lake, bucket: Bucket, s3_server: str) -> None:
    root = bucket(s3_server)
    for ending in ("parquet", "csv", "csv.gz", "jsonl.zst"):
        pairs = [(f"http://a.test/{ending}/{n}", f"caption {n}") for n in range(1000)]
        storage.write(f"{root}/in/a.{ending}", write_pairs(tmp_path / f"a.{ending}", pairs).read_bytes())
    sources = [Source(path=f"{root}/in/*.{ending}") for ending in ("parquet", "csv", "gz", "zst")]
    check_sources(sources)
    assert ingest(empty_lake, tuple(sources), NOW) == IngestSummary(rows=4000, new=4000, files_read=4)
    check_sources(sources, empty_lake)
    assert ingest(empty_lake, tuple(sources), NOW) == IngestSummary(files_skipped=4)
    with pytest.raises(SourceError, match="does not exist"):
        check_sources([Source(path=f"{root}/in/nothing.csv")])
