"""Pictures that came along: from tars, Parquet and folders into the lake, without a fetch and without a wrong one."""

import io
import json
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.engine.stage import make_plan
from data.errors import SourceError
from data.fetch import carried
from data.fetch.carried import read_carried
from data.fetch.download import Download, DownloadSettings
from data.lake import storage
from data.lake.lake import Lake
from data.pictures.prepare import prepare
from data.sources.ingest import IngestSummary, ingest
from data.sources.sources import Columns, Source, check_sources
from tests.conftest import Bucket
from tests.lakes.empty import NOW, reject_reasons, rows_of, stored_pairs
from tests.servers.small_world import jpeg

SETTINGS = DownloadSettings(image_size=64, max_bytes=100_000)
PICTURES = {f"{n:05d}": jpeg(48 + n, 40, seed=n) for n in range(12)}


def write_tar(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def members(pictures: dict[str, bytes] = PICTURES) -> list[tuple[str, bytes]]:
    """As a downloader of such sets writes them: picture, caption, and JSON about them."""
    tar_members = []
    for key, body in pictures.items():
        about = {"url": f"http://a.test/{key}.jpg", "caption": "in JSON", "punsafe": 0.25, "sha256": "a" * 64}
        tar_members += [
            (f"{key}.jpg", body),
            (f"{key}.json", json.dumps(about).encode()),
            (f"{key}.txt", f"picture {key}".encode()),
        ]
    return tar_members


def downloaded(lake: Lake) -> dict[str, Any]:
    """The download stage to its end; each pair's caption with its picture's digest, or with its status."""
    stage = Download(lake, SETTINGS)
    plan = make_plan(lake, stage, 1000)
    plan.commit([stage.work(shard) for shard in plan.shards])
    captions = {row["id"]: row["caption"] for row in rows_of(lake, "pairs")}
    pictures = {row["id"]: row["sha256"] for row in rows_of(lake, "images")}
    last = {row["id"]: row["status"] for row in sorted(rows_of(lake, "fetches"), key=lambda row: row["attempt"])}
    return {captions[id]: pictures.get(id, status) for id, status in last.items()}


def digests(pictures: dict[str, bytes] = PICTURES) -> dict[str, str]:
    return {f"picture {key}": prepare(body, SETTINGS).sha256 for key, body in pictures.items()}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("folder", ["", "a/b.c/", "long/" * 40])
def test_pictures_of_a_tar_come_along(tmp_path: Path, empty_lake: Lake, format: int, folder: str) -> None:
    path = write_tar(tmp_path / "a.tar", [(folder + name, body) for name, body in members()], format)
    source = Source(path=str(path), columns=Columns(extra=("punsafe",), sha256="sha256"))
    check_sources([source])
    assert ingest(empty_lake, (source,), NOW) == IngestSummary(rows=12, new=12, files_read=1)
    row = rows_of(empty_lake, "pairs")[0]
    assert row["url"].startswith("http://a.test/")
    assert json.loads(row["extra"])["punsafe"] == 0.25
    assert row["sha256"] is None, "what was downloaded once is not what is in the tar"
    assert downloaded(empty_lake) == digests()
    assert make_plan(empty_lake, Download(empty_lake, SETTINGS), 1000).rows == 0


@dataclass(frozen=True)
class OddTar:
    """A lake into which a tar was read whose members are in any order, and some of which are no pair."""

    lake: Lake
    url: str
    summary: IngestSummary


@pytest.fixture
def odd_tar(tmp_path: Path, empty_lake: Lake) -> OddTar:
    picture = PICTURES["00000"]
    parts = [
        *(("1.JPG", picture), ("2.seg.png", b"no"), ("2.webp", picture), ("3.png", picture), ("4.jpg", picture)),
        *(("5.txt", b"alone"), ("6.json", b'{"url": "http://b.test/6", "caption": "a URL"}'), ("7.jpg", picture)),
        *(("8.jpg", picture), ("9.txt", b"x" * (2 << 20)), ("._1.jpg", b"Finder"), ("README", b"no"), ("10.jpg", b"")),
        *(("1.txt", "\ufeffnaïve 🐕\n".encode()), ("2.json", '{"caption": "é"}'.encode("utf-16"))),
        *(("3.txt", b"\xff\xfe"), ("4.json", b"{"), ("7.json", b"[]"), ("8.json", b'{"caption": 8}')),
    ]
    path = write_tar(tmp_path / "a.tar", parts)
    return OddTar(empty_lake, path.as_uri(), ingest(empty_lake, (Source(path=str(path)),), NOW))


def test_members_in_any_order_and_text_in_any_member_are_one_pair(odd_tar: OddTar) -> None:
    url = odd_tar.url
    assert stored_pairs(odd_tar.lake) == sorted(
        [(f"{url}#1.JPG", "naïve 🐕"), (f"{url}#2.webp", "é"), ("http://b.test/6", "a URL"), (f"{url}#10.jpg", "")]
    )
    assert (odd_tar.summary.rows, odd_tar.summary.unreadable) == (10, 6)


def test_members_that_are_no_pair_are_rejected_with_their_reasons(odd_tar: OddTar) -> None:
    parts = [row["reason"].partition(":") for row in rows_of(odd_tar.lake, "rejects")]
    rejects = {key: reason.removeprefix(" ") for key, _, reason in parts}
    assert rejects["3"].startswith("'utf-8' codec can't decode")
    assert rejects["4"].startswith("Expecting property name")
    assert rejects["5"] == "neither a picture nor a URL"
    assert rejects["7"] == "its JSON is no object"
    assert rejects["the caption is a number, not text"] == ""
    assert rejects["9"].startswith("9.txt has 2,097,152 bytes")


def test_a_tar_that_ends_early_gives_what_it_holds(tmp_path: Path, empty_lake: Lake) -> None:
    path = write_tar(tmp_path / "a.tar", members())
    with tarfile.open(path) as tar:
        cut = tar.getmember("00007.jpg").offset_data + 100
    path.write_bytes(path.read_bytes()[:cut])
    check_sources([Source(path=str(path))])
    ingest(empty_lake, (Source(path=str(path)),), NOW)
    assert reject_reasons(empty_lake) == [(None, f"source {path.as_uri()} can't be read: unexpected end of data")]
    wanted = digests({key: body for key, body in PICTURES.items() if key < "00007"})
    assert downloaded(empty_lake) == {**wanted, "": "truncated"}


def test_an_archive_that_changed_or_went_gives_no_wrong_picture(tmp_path: Path, empty_lake: Lake) -> None:
    first = write_tar(tmp_path / "a.tar", members())
    names = list(PICTURES)
    second = write_tar(tmp_path / "b.tar", [("x.jpg", PICTURES[names[0]]), ("x.txt", b"gone")])
    ingest(empty_lake, (Source(path=str(tmp_path / "*.tar")),), NOW)
    others = {name: PICTURES[names[-1]].ljust(len(PICTURES[name]), b"\0")[: len(PICTURES[name])] for name in names}
    write_tar(first, members(dict(zip([f"9{name[1:]}" for name in names], others.values(), strict=True))))
    second.unlink()
    assert set(downloaded(empty_lake).values()) == {"not_found"}
    errors = {row["error"] for row in rows_of(empty_lake, "fetches")}
    assert errors == {
        "the tar has changed: another member is where the picture was",
        f"{second.as_uri()} no longer exists",
    }


def test_pictures_of_a_hugging_face_folder_come_along(tmp_path: Path, empty_lake: Lake) -> None:
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    (folder / ".cache").mkdir()
    (folder / "README.md").write_text("a card")
    (folder / "data" / "more.jsonl").write_text("its Parquet goes first")
    (folder / ".cache" / "x.parquet").write_text("no table")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for part, names in enumerate((list(PICTURES)[:7], list(PICTURES)[7:])):
        pictures = [{"bytes": PICTURES[name], "path": f"{name}.jpg"} for name in names]
        table = pa.table(
            {"image": pa.array(pictures, kind), "text": [f"picture {n}" for n in names], "n": [1] * len(names)}
        )
        if part:
            table = pa.concat_tables([table, pa.table({"image": pa.array([None], kind), "text": ["none"], "n": [1]})])
        pq.write_table(table, folder / "data" / f"train-0000{part}-of-00002.parquet", row_group_size=3)
    source = Source(path=str(folder), columns=Columns(caption="text", extra="all"))
    check_sources([source])
    assert ingest(empty_lake, (source,), NOW) == IngestSummary(rows=13, new=13, files_read=2)
    row = next(row for row in rows_of(empty_lake, "pairs") if row["caption"] == "picture 00004")
    assert row["url"].endswith("set/data/train-00000-of-00002.parquet#4")
    about = json.loads(row["extra"])
    assert (about["n"], about["_at"]["row_group"], about["_at"]["row"]) == (1, 1, 1)
    assert downloaded(empty_lake) == {**digests(), "none": "not_found"}


def test_a_parquet_file_that_changed_gives_no_wrong_picture(tmp_path: Path, empty_lake: Lake) -> None:
    def write(pictures: list[bytes]) -> None:
        pq.write_table(pa.table({"image": pictures, "caption": [f"{n}" for n in range(3)]}), tmp_path / "a.parquet")

    write([PICTURES["00000"]] * 3)
    ingest(empty_lake, (Source(path=str(tmp_path / "a.parquet")),), NOW)
    write([PICTURES["00001"], PICTURES["00002"], PICTURES["00003"]])
    assert downloaded(empty_lake) == dict.fromkeys("012", "not_found")


def test_pictures_beside_a_table_come_along_and_nothing_outside_does(tmp_path: Path, empty_lake: Lake) -> None:
    folder = tmp_path / "set"
    (folder / "in").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(PICTURES["00000"])
    for name, body in PICTURES.items():
        (folder / "in" / f"{name}.jpg").write_bytes(body)
    rows = [("in/" + f"{name}.jpg", f"picture {name}") for name in PICTURES]
    rows += [("../secret.jpg", "out"), (str(tmp_path / "secret.jpg"), "out"), ("in/../../secret.jpg", "out")]
    text = "file_name,caption\n" + "".join(f"{name},{caption}\n" for name, caption in [*rows, ("in/no.jpg", "none")])
    (folder / "metadata.csv").write_text(text)
    check_sources([Source(path=str(folder))])
    assert ingest(empty_lake, (Source(path=str(folder)),), NOW) == IngestSummary(
        rows=16, new=13, unreadable=3, files_read=1
    )
    assert {reason for _, reason in reject_reasons(empty_lake)} == {"file_name leads out of the folder"}
    assert downloaded(empty_lake) == {**digests(), "none": "not_found"}


def test_a_folder_without_anything_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "README.md").write_text("a card")
    with pytest.raises(SourceError, match="is a folder without Parquet, tar, CSV or JSON lines files"):
        check_sources([Source(path=str(tmp_path / "set"))])


def test_too_large_a_picture_is_not_read(tmp_path: Path) -> None:
    location = {"tar": str(tmp_path / "not there.tar"), "offset": 512, "size": 200_000, "check": 1}
    assert [(index, result.status) for index, result in read_carried([location], 100_000)] == [(0, "too_large")]
    (tmp_path / "a.jpg").write_bytes(b"x" * 100_001)
    assert [result.status for _, result in read_carried([{"file": str(tmp_path / "a.jpg")}], 100_000)] == ["too_large"]


def test_however_the_reads_are_grouped_each_place_gets_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(
        tmp_path / "a.tar", [(f"{index}.jpg", bytes([index]) * (index * 37 % 1500)) for index in range(60)]
    )
    with tarfile.open(path) as tar:
        infos = tar.getmembers()
    locations = [{"tar": str(path), "offset": i.offset_data, "size": i.size, "check": i.chksum} for i in infos]
    random.Random(1).shuffle(locations)
    for group_bytes, max_gap in ((1, 0), (4_000, 0), (4_000, 600), (1 << 20, 1 << 20)):
        monkeypatch.setattr(carried, "GROUP_BYTES", group_bytes)
        monkeypatch.setattr(carried, "MAX_GAP", max_gap)
        results = dict(read_carried(locations, 100_000))
        assert sorted(results) == list(range(60))
        for index, location in enumerate(locations):
            body = results[index].body
            assert body is not None
            assert len(body) == location["size"]
            assert len(set(body)) <= 1


def test_pictures_on_s3_come_along_in_few_requests(
    tmp_path: Path,
    empty_lake: Lake,
    bucket: Bucket,
    s3_server: str,
) -> None:
    root = bucket(s3_server)
    storage.write(f"{root}/in/a.tar", write_tar(tmp_path / "a.tar", members()).read_bytes())
    pictures = [{"bytes": body, "path": None} for body in PICTURES.values()]
    pq.write_table(pa.table({"image": pictures, "caption": [f"p {n}" for n in PICTURES]}), tmp_path / "a.parquet")
    storage.write(f"{root}/set/data/a.parquet", (tmp_path / "a.parquet").read_bytes())
    sources = (Source(path=f"{root}/in/*.tar"), Source(path=f"{root}/set"))
    check_sources(sources)
    assert ingest(empty_lake, sources, NOW) == IngestSummary(rows=24, new=24, files_read=2)
    check_sources(sources, empty_lake)
    assert ingest(empty_lake, sources, NOW) == IngestSummary(files_skipped=2)
    wanted = digests()
    assert downloaded(empty_lake) == {
        **wanted,
        **{text.replace("picture", "p"): digest for text, digest in wanted.items()},
    }
    storage.remove(f"{root}/in/a.tar")
    location = json.loads(next(row["extra"] for row in rows_of(empty_lake, "pairs") if "a.test" in row["url"]))["_at"]
    assert [result.status for _, result in read_carried([location], 100_000)] == ["not_found"]
