"""The download stage over a real origin: when a pair is fetched again, what becomes of a picture that changed, and
what must not be fetched or kept.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from data.build.recipe import load_recipe, parse_recipe
from data.engine.stage import Plan, make_plan, run_stage
from data.errors import RecipeError
from data.fetch.blocklist import Entry, add
from data.fetch.download import Download, DownloadSettings
from data.lake.lake import Lake
from data.lake.schemas import PAIRS, bucket_of, changed_pair_id, pair_id
from data.lake.shard_file import write_file
from data.pictures.phash import perceptual_hash
from data.select.funnel import funnel
from data.select.judgement import select
from data.select.selection import Selection
from data.world.server import OriginServer
from tests.engines import InProcessEngine
from tests.lakes.empty import unprobed_lake
from tests.servers.small_world import jpeg, write_origin

HOST = "shapes.test"
QUICK = {"per_host_rate": 10_000.0, "retry_wait": 0.01, "respect_robots": False}
Row = dict[str, Any]


@dataclass
class Site:
    """A lake, an origin that it fetches from, and the folder that the origin serves."""

    lake: Lake
    origin: OriginServer
    folder: Path

    def put(self, name: str, body: bytes) -> None:
        file = self.folder / name
        file.write_bytes(body)
        os.utime(file, ns=(file.stat().st_mtime_ns + 1_000_000,) * 2)  # whatever the clock's grain

    def pages(self, **behaviours: tuple[str, str | None]) -> None:
        """Serve pages by name, with behaviour and location, beside those of all pictures in the folder."""
        good_pages = [(f"/{file.name}", file.name, "ok", None) for file in self.folder.glob("*.jpg")]
        write_origin(self.folder, good_pages + [(f"/{n}", "a.jpg", kind, to) for n, (kind, to) in behaviours.items()])
        self.origin._origin.__init__(self.folder)  # type: ignore[misc]

    def add(self, *names: str, caption: str = "a caption", host: str = HOST, **more: Any) -> list[str]:
        urls = [name if ":" in name else f"http://{host}/{name}" for name in names]
        now = datetime.now(UTC)
        rows = [
            {"id": pair_id(url, caption), "url": url, "caption": caption, "source": "list", "first_seen": now, **more}
            for url in urls
        ]
        table = self.lake.table_or_make("pairs", PAIRS)
        files = []
        for bucket in self.lake.buckets:
            part = [row for row in rows if bucket_of(row["id"], self.lake.config.buckets) == bucket]
            files += [write_file(table.url, bucket, pa.Table.from_pylist(part, PAIRS))] if part else []
        assert len(table.append(files)) == len(files)
        return [row["id"] for row in rows]

    def stage(self, **settings: Any) -> Download:
        return Download(self.lake, DownloadSettings(**{**QUICK, **settings}))

    def download(self, **settings: Any) -> int:
        return run_stage(self.lake, self.stage(**settings), InProcessEngine(), 100)

    def rows(self, table: str) -> list[Row]:
        return list(self.lake.table(table).dataset().to_table().to_pylist())

    def fetches(self, id: str) -> list[Row]:
        return sorted((row for row in self.rows("fetches") if row["id"] == id), key=lambda row: row["attempt"])

    def statuses(self, id: str) -> list[str]:
        return [row["status"] for row in self.fetches(id)]

    def pictures(self) -> dict[str, str]:
        """The hash of the bytes of each pair's picture."""
        images = self.rows("images")
        assert len({row["id"] for row in images}) == len(images), "one picture a pair"
        return {row["id"]: row["sha256"] for row in images}

    def reasons(self, select_yaml: str = "") -> dict[str, list[str]]:
        recipe = parse_recipe(f"name: x\nsources: [{{path: a.parquet}}]\n{select_yaml}", "x")
        selection = Selection("x", recipe.criteria, recipe.selection_scorers)
        select(self.lake, selection)
        steps = funnel(self.lake, selection)
        verdicts = {row["id"]: row["reasons"] for row in self.rows("verdicts/x")}
        assert steps[-1].left == sum(not reasons for reasons in verdicts.values())
        return verdicts


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg())
    write_origin(folder, [("/a.jpg", "a.jpg", "ok", None)])
    with OriginServer(folder) as origin:
        lake = unprobed_lake(tmp_path)
        for name in (HOST, f"*.{HOST}"):
            lake.allow_host(name, origin.address)
        yield Site(lake, origin, folder)


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_the_wait_goes_by_the_class_of_the_failure_and_the_pairs_of_a_dead_host_disperse() -> None:
    settings = DownloadSettings()
    ids = [pair_id(str(n), "") for n in range(200)]
    for status, hours in (("timeout", 6), ("connection", 6), ("dns", 24), ("server_error", 1), ("rate_limited", 1)):
        for failures in (1, 2, 3):
            least = timedelta(hours=hours * 2 ** (failures - 1))
            waits = [settings.wait(id, status, failures) for id in ids]
            assert all(least <= wait <= 1.5 * least for wait in waits)
            assert max(waits) - min(waits) > 0.4 * least
            assert waits == [settings.wait(id, status, failures) for id in ids]


def test_a_passing_failure_is_tried_in_as_many_builds_as_set_and_a_lasting_one_once(site: Site) -> None:
    site.pages(down=("unavailable", None), gone=("gone", None))
    down, gone = site.add("down", "gone")
    for _ in range(5):
        site.download(retry_hours_server=0, attempts=3)
    assert site.statuses(down) == ["server_error"] * 3
    assert site.statuses(gone) == ["gone"]
    assert [row["retry_after"] is None for row in site.fetches(down)] == [False, False, True]


def test_what_failed_for_good_after_it_failed_for_a_while_is_left(site: Site) -> None:
    site.pages(picture=("unavailable", None))
    (id,) = site.add("picture")
    site.download(retry_hours_server=0)
    site.pages(picture=("gone", None))
    for _ in range(3):
        site.download(retry_hours_server=0)
    assert site.statuses(id) == ["server_error", "gone"]


def test_a_host_that_says_when_to_come_again_is_left_alone_until_then(site: Site) -> None:
    names = [f"p{n}" for n in range(40)]
    site.pages(**dict.fromkeys(names, ("limited", "7200")))
    ids = site.add(*names)
    site.download(per_host=2, tries=2)
    rows = [site.fetches(id)[0] for id in ids]
    assert {row["status"] for row in rows} == {"rate_limited"}
    assert all(row["transient"] and row["error"] for row in rows)
    answered = [row for row in rows if row["http_status"] == 429]
    assert len(answered) == site.origin.stats.pictures <= 2, "who waited in the queue asks no more"
    waits = [(row["retry_after"] - row["at"]).total_seconds() for row in rows]
    assert all(7190 < wait <= 7200 for wait in waits), "to the second, not by the class"
    site.download(per_host=2)
    assert site.origin.stats.pictures == len(answered)
    assert site.statuses(ids[0]) == ["rate_limited"]


def test_a_pair_that_was_not_requested_has_spent_no_attempt(site: Site) -> None:
    site.pages(first=("limited", "6"), second=("ok", None))
    first, second = site.add("first", "second")
    stage = site.stage(per_host=1, attempts=1, retry_hours_server=0)
    table = site.lake.table_or_make("fetches", stage.outputs(site.lake)[2].file_schema(), ("id", "attempt"))
    now = datetime.now(UTC)
    row = {"attempt": 1, "at": now, "status": "rate_limited", "transient": True, "retry_after": now, "error": "-"}
    for id, http_status in ((first, 429), (second, None)):
        rows = pa.Table.from_pylist([{"id": id, **row, "http_status": http_status}], table.file_schema())
        table.append([write_file(table.url, bucket_of(id, site.lake.config.buckets), rows)])
    failures = {
        row["id"]: row["failures"]
        for b in site.lake.buckets
        for row in stage.pending(site.lake, stage.outputs(site.lake), b).to_pylist()
    }
    assert failures == {first: 1.0, second: pytest.approx(0.1)}


def test_a_head_that_is_no_text_is_a_row_all_the_same(site: Site) -> None:
    site.pages(fine=("garbled", "200"), broken=("garbled", "500"))
    fine, broken = site.add("fine", "broken")
    site.download()
    assert site.statuses(fine) == ["ok"]
    assert site.statuses(broken) == ["server_error"]
    assert site.download(refetch_days=0) == 1
    assert site.statuses(fine) == ["ok", "unchanged"]


def test_bytes_are_checked_against_the_sha256_of_the_list(site: Site) -> None:
    (right,) = site.add("a.jpg", sha256=sha256(jpeg()).upper())
    (wrong,) = site.add("a.jpg", caption="another", sha256="0" * 64)
    site.download()
    assert site.statuses(right) == ["ok"]
    assert site.statuses(wrong) == ["changed"]
    assert site.fetches(wrong)[0]["error"] == "the bytes do not have the sha256 that the source gives"
    assert set(site.pictures()) == {right}


def test_new_bytes_that_the_list_does_not_name_are_refused_for_good(site: Site) -> None:
    (id,) = site.add("a.jpg", sha256=sha256(jpeg()))
    site.download()
    site.put("a.jpg", jpeg(seed=1))
    for _ in range(2):
        site.download(refetch_days=0)
    assert site.statuses(id) == ["ok", "changed"]
    assert site.pictures() == {id: sha256(jpeg())}
    assert site.reasons()[id] == []


@dataclass(frozen=True)
class Refetched:
    """Two pictures that a second fetch found unchanged, and how many pairs each build fetched."""

    site: Site
    ids: list[str]
    pictures: dict[str, str]  # after the first fetch
    counts: list[int]  # at first, before they are old, when they are old


@pytest.fixture
def refetched(site: Site) -> Refetched:
    site.put("b.jpg", jpeg(seed=1))
    site.pages()
    ids = site.add("a.jpg", "b.jpg")
    first, pictures = site.download(), site.pictures()
    return Refetched(site, ids, pictures, [first, site.download(refetch_days=1), site.download(refetch_days=0)])


def test_a_picture_is_fetched_again_once_it_is_old(refetched: Refetched) -> None:
    assert refetched.counts == [2, 0, 2]


def test_a_picture_that_did_not_change_is_not_sent_again(refetched: Refetched) -> None:
    assert refetched.site.origin.stats.unchanged == 2
    for id in refetched.ids:
        assert refetched.site.statuses(id) == ["ok", "unchanged"]
        first, second = refetched.site.fetches(id)
        assert second["http_status"] == 304
        assert second["etag"] == first["etag"] is not None
    assert refetched.site.pictures() == refetched.pictures
    assert len(refetched.site.rows("pairs")) == 2


def test_the_tag_of_a_picture_is_remembered_after_an_answer_without_a_body(refetched: Refetched) -> None:
    assert refetched.site.download(refetch_days=0) == 2
    assert refetched.site.origin.stats.unchanged == 4


@dataclass(frozen=True)
class Changed:
    """A pair whose URL came to give other bytes, which are a second pair."""

    site: Site
    first: str
    second: str
    old: bytes
    new: bytes


@pytest.fixture
def changed(site: Site) -> Changed:
    old, new = jpeg(), jpeg(seed=1)
    (first,) = site.add("a.jpg", extra='{"k": 1}')
    site.download()
    site.put("a.jpg", new)
    site.download(refetch_days=0)
    return Changed(site, first, changed_pair_id(f"http://{HOST}/a.jpg", "a caption", sha256(new)), old, new)


def test_a_changed_picture_is_a_new_pair_and_never_a_silent_swap(changed: Changed) -> None:
    site, first, second = changed.site, changed.first, changed.second
    assert site.pictures() == {first: sha256(changed.old), second: sha256(changed.new)}
    assert site.statuses(first) == ["ok", "replaced"]
    assert site.fetches(first)[1]["replaced_by"] == second
    assert site.reasons() == {first: [f"replaced by {second}"], second: []}


def test_the_new_pair_of_a_changed_picture_has_the_columns_of_the_old(changed: Changed) -> None:
    pair = next(row for row in changed.site.rows("pairs") if row["id"] == changed.second)
    assert (pair["url"], pair["caption"]) == (f"http://{HOST}/a.jpg", "a caption")
    assert (pair["source"], pair["extra"]) == ("list", '{"k": 1}')
    assert (pair["replaces"], pair["sha256"]) == (changed.first, sha256(changed.new))
    assert pair["first_seen"] == changed.site.fetches(changed.first)[1]["at"]


def test_only_the_current_picture_of_a_url_is_fetched_again(changed: Changed) -> None:
    site = changed.site
    assert site.download() == 0
    assert site.download(refetch_days=0) == 1
    assert site.origin.stats.unchanged == 1, "by the tag that came with the new bytes"
    assert site.statuses(changed.second) == ["unchanged"]


def test_bytes_that_come_back_come_back_under_their_id_and_the_last_fetch_wins(site: Site) -> None:
    bodies = [jpeg(seed=n) for n in range(3)]
    url = f"http://{HOST}/a.jpg"
    (root,) = site.add("a.jpg")
    site.download()
    current = [root]
    for turn in (1, 0, 1, 2, 1, 1, 0):
        site.put("a.jpg", bodies[turn])
        site.download(refetch_days=0)
        id = changed_pair_id(url, "a caption", sha256(bodies[turn]))
        replaced = {id for id, reasons in site.reasons().items() if reasons}
        everything = {row["id"] for row in site.rows("pairs")}
        assert everything - replaced == {id}
        assert site.pictures()[id] == sha256(bodies[turn])
        current.append(id)
    assert len(everything) == 4
    assert site.reasons()[root] == [f"replaced by {current[1]}"]


@pytest.mark.parametrize("committed", [0, 1, 2])
def test_a_build_killed_between_its_commits_still_has_one_picture_of_each(site: Site, committed: int) -> None:
    (root,) = site.add("a.jpg")
    site.put("b.jpg", jpeg(seed=9))
    site.pages()
    (other,) = site.add("b.jpg")
    site.download()
    site.put("a.jpg", jpeg(seed=1))
    stage = site.stage(refetch_days=0)
    plan = make_plan(site.lake, stage, 100)
    written = [stage.work(shard) for shard in plan.shards]
    Plan(stage, plan.outputs[:committed], plan.shards).commit(written)
    for _ in range(2):
        site.download(refetch_days=0)
    id = changed_pair_id(f"http://{HOST}/a.jpg", "a caption", sha256(jpeg(seed=1)))
    assert site.pictures() == {root: sha256(jpeg()), id: sha256(jpeg(seed=1)), other: sha256(jpeg(seed=9))}
    assert len(site.rows("pairs")) == 3
    assert site.reasons() == {root: [f"replaced by {id}"], id: [], other: []}


def test_other_bytes_after_a_kill_become_the_next_in_the_chain(site: Site) -> None:
    """The replacing pair was committed and its picture was not; then the origin changed again."""
    (root,) = site.add("a.jpg")
    site.download()
    site.put("a.jpg", jpeg(seed=1))
    stage = site.stage(refetch_days=0)
    plan = make_plan(site.lake, stage, 100)
    Plan(stage, plan.outputs[:1], plan.shards).commit([stage.work(shard) for shard in plan.shards])
    site.put("a.jpg", jpeg(seed=2))
    site.download()
    first, second = (changed_pair_id(f"http://{HOST}/a.jpg", "a caption", sha256(jpeg(seed=n))) for n in (1, 2))
    assert site.pictures() == {root: sha256(jpeg()), second: sha256(jpeg(seed=2))}
    assert site.reasons() == {root: [f"replaced by {first}"], first: [f"replaced by {second}"], second: []}


def test_of_two_builds_that_find_other_bytes_each_the_later_wins(site: Site) -> None:
    (root,) = site.add("a.jpg")
    site.download()
    stage = site.stage(refetch_days=0)
    plans = [make_plan(site.lake, stage, 100) for _ in range(2)]
    for seed, plan in enumerate(plans, start=1):
        site.put("a.jpg", jpeg(seed=seed))
        plan.commit([stage.work(shard) for shard in plan.shards])
    first, second = (changed_pair_id(f"http://{HOST}/a.jpg", "a caption", sha256(jpeg(seed=n))) for n in (1, 2))
    assert set(site.pictures()) == {root, first, second}
    reasons = site.reasons()
    assert reasons[root]
    assert reasons[first] == [f"replaced by {second}"]
    assert reasons[second] == []


def test_of_two_builds_that_find_the_same_bytes_one_lands(site: Site) -> None:
    (root,) = site.add("a.jpg")
    site.download()
    site.put("a.jpg", jpeg(seed=1))
    stage = site.stage(refetch_days=0)
    plans = [make_plan(site.lake, stage, 100) for _ in range(2)]
    lost = [plan.commit([stage.work(shard) for shard in plan.shards]) for plan in plans]
    assert lost == [0, 1]
    assert len(site.pictures()) == len(site.rows("pairs")) == 2
    assert site.statuses(root) == ["ok", "replaced"]


def test_a_picture_that_is_gone_stays_unless_the_recipe_says_otherwise(site: Site) -> None:
    (id,) = site.add("a.jpg")
    site.download()
    site.pages(**{"a.jpg": ("gone", None)})
    for _ in range(2):
        site.download(refetch_days=0)
    assert site.statuses(id) == ["ok", "gone"], "gone for good: asked once"
    assert site.reasons()[id] == []
    strict = "select:\n  - fetch_status: {none_of: [gone, not_found]}\n"
    assert site.reasons(strict)[id] == ["fetch_status is gone"]


def test_a_refetch_that_fails_for_a_while_is_tried_again_and_changes_nothing(site: Site) -> None:
    (id,) = site.add("a.jpg")
    site.download()
    site.pages(**{"a.jpg": ("unavailable", None)})
    site.download(refetch_days=0)
    assert site.download(refetch_days=1) == 0
    site.pages()
    assert site.download(refetch_days=1, retry_hours_server=0) == 0, "the wait was written down when it failed"
    assert site.download(refetch_days=0) == 1
    assert site.statuses(id) == ["ok", "server_error", "unchanged"]
    site.put("a.jpg", b"<html>parked</html>")
    site.download(refetch_days=0)
    assert site.statuses(id)[-1] == "not_an_image"
    assert site.reasons()[id] == []


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("url", f"https://user@{HOST.upper()}:443/a.jpg#part"),
        ("domain", f"*.{HOST}"),
        ("pair", pair_id(f"http://{HOST}/a.jpg", "a caption")),
    ],
)
def test_what_is_blocked_is_not_requested(site: Site, kind: Any, what: str) -> None:
    add(site.lake, [Entry(kind, what, "asked to")])
    (id,) = site.add("a.jpg")
    site.download()
    assert site.statuses(id) == ["blocked"]
    assert site.fetches(id)[0]["retry_after"] is None
    assert site.origin.stats.pictures == 0
    assert site.download() == 0


def test_a_redirect_to_what_is_blocked_is_not_followed(site: Site) -> None:
    site.pages(moved=("redirect", "/a.jpg"))
    add(site.lake, [Entry("url", f"http://{HOST}/a.jpg", "asked to")])
    (id,) = site.add("moved")
    site.download()
    assert site.statuses(id) == ["blocked"]
    assert site.origin.stats.paths == {"/moved": 1}


def test_a_blocked_body_is_dropped_under_whatever_url_and_the_next_shard_knows(site: Site) -> None:
    (before,) = site.add("a.jpg")
    site.download()
    again = jpeg(seed=5)
    site.put("b.jpg", again)
    site.put("c.jpg", jpeg(200, 150, seed=6))
    site.pages()
    look = perceptual_hash(Image.open(io.BytesIO(jpeg(200, 150, seed=6))))
    entries = [Entry("sha256", sha256(again), "x"), Entry("phash", f"{look:016x}", "x")]
    assert add(site.lake, entries) == 2
    assert add(site.lake, entries) == 0
    ids = site.add("b.jpg", "c.jpg")
    site.download()
    assert [site.statuses(id) for id in ids] == [["blocked"], ["blocked"]]
    assert set(site.pictures()) == {before}
    assert {row["kind"] for row in site.rows("blocklist")} == {"sha256", "phash"}


def test_the_blocklist_does_not_keep_a_url_that_was_forgotten(site: Site) -> None:
    add(site.lake, [Entry("url", "http://private.example/me.jpg", "forgotten")])
    (row,) = site.rows("blocklist")
    assert "private" not in str(row)
    with pytest.raises(ValueError, match="64 hex digits"):
        Entry("sha256", "abc", "x")


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5"])
def test_a_file_that_a_list_names_is_never_written(site: Site, tmp_path: Path, algorithm: str) -> None:
    noise = [hashlib.new(algorithm, str(n).encode()).hexdigest() for n in range(3000)]
    wanted = hashlib.new(algorithm, jpeg()).hexdigest()
    path = tmp_path / "list.txt"
    path.write_text("\n".join(["# known", *noise, "", wanted.upper(), *noise]) + "\r\n")
    site.put("b.jpg", jpeg(seed=1))
    site.pages()
    named, fine = site.add("a.jpg", "b.jpg")
    site.download(forbidden=(str(path),))
    assert site.statuses(named) == ["forbidden"]
    assert wanted not in str(site.fetches(named)).lower()
    assert set(site.pictures()) == {fine}


@pytest.mark.parametrize("mode", ["keep_ratio", "center_crop", "border"])
def test_a_picture_that_looks_like_one_of_a_list_is_never_written(site: Site, tmp_path: Path, mode: str) -> None:
    y = Image.linear_gradient("L").resize((600, 300))
    picture = Image.merge("RGB", (y, y.transpose(Image.Transpose.ROTATE_180), y.point(lambda v: v // 2)))
    picture.paste((200, 30, 40), (40, 60, 260, 220))
    picture.paste((20, 230, 40), (380, 30, 500, 140))
    path = tmp_path / "list.txt"
    path.write_text(
        f"{perceptual_hash(picture):016x}\n" + "".join(f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}\n" for n in range(1000))
    )
    again = io.BytesIO()
    picture.resize((450, 225)).save(again, "JPEG", quality=60)
    site.put("b.jpg", again.getvalue())
    site.pages()
    fine, named = site.add("a.jpg", "b.jpg")
    site.download(forbidden=(str(path),), resize_mode=mode, image_size=64)
    assert site.statuses(named) == ["forbidden"]
    assert set(site.pictures()) == {fine}


def test_a_list_that_is_missing_or_holds_no_hashes_is_an_error_before_anything_is_fetched(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nsources: [{path: a.parquet}]\ndownload: {forbidden: [list.txt]}\n")
    with pytest.raises(RecipeError, match=r"the list .*list\.txt does not exist"):
        load_recipe(str(recipe))
    (tmp_path / "list.txt").write_text("# a list\n" + "0" * 64 + "\nnot a hash\n")
    with pytest.raises(RecipeError, match=r"list\.txt, line 3: not a hash"):
        load_recipe(str(recipe))
    (tmp_path / "list.txt").write_text("0" * 64 + "\n")
    assert load_recipe(str(recipe)).download.forbidden == (str(tmp_path / "list.txt"),)
