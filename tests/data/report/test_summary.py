"""A version gives account of itself: what changed, why a pair is in or out, and whether it is what it says it is."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.errors import DatasetVersionNotFound, PairNotFound
from data.lake.lake import Lake
from data.upkeep.diff import diff
from data.upkeep.verify import verify
from data.upkeep.why import why


def ids_of(lake: Lake, version: int) -> set[str]:
    return set(lake.table("datasets/shapes", version).dataset().to_table(columns=["id"])["id"].to_pylist())


def test_a_diff_adds_up_and_says_why(built: Lake) -> None:
    first, second = ids_of(built, 1), ids_of(built, 2)
    found = diff(built, "shapes", 1, 2)
    assert (found.before, found.after) == (len(first), len(second))
    assert found.before - found.out + found.into == found.after
    assert set(found.out_ids) == first - second
    assert found.why_out == {"clip_score < 0.42": found.out}
    back = diff(built, "shapes", 2, 1)
    assert (back.into, back.out, back.why_in) == (found.out, found.into, found.why_out)
    shift = next(shift for shift in found.shifts if shift.score == "clip_score")
    assert shift.after[0] >= 0.42 > shift.before[0]  # type: ignore[operator]
    assert 0 < shift.distance < 1
    same = diff(built, "shapes", 2, 2)
    assert (same.into, same.out, same.changed) == (0, 0, 0)
    assert all(shift.distance == 0 for shift in same.shifts)
    with pytest.raises(
        DatasetVersionNotFound, match=r"shapes@9 does not exist .* published versions: shapes@2, shapes@1"
    ):
        diff(built, "shapes", 1, 9)


def test_why_tells_a_pair_s_whole_story_by_url_and_by_id(built: Lake, world: Path) -> None:
    labels = pq.read_table(world / "labels.parquet").to_pylist()
    gone = next(label for label in labels if label["origin"] == "gone")
    story = why(built, gone["url"])[0]
    assert story.pair["id"] == gone["id"]
    assert [fetch["status"] for fetch in story.fetches] == ["gone"]
    assert story.image is None
    assert [(one.version, one.kept, one.reasons) for one in story.verdicts] == [
        (1, False, ["not fetched: gone"]),
        (2, False, ["not fetched: gone"]),
    ]
    strict = next(iter(ids_of(built, 1) - ids_of(built, 2)))
    story = why(built, strict)[0]
    assert story.image is not None
    assert "image" not in story.image
    assert [one.kept for one in story.verdicts] == [True, False]
    assert {name.partition("-1")[0] for name in story.scores} == {"caption", "perceptual-hash", "clip-score"}
    double = next(label for label in labels if label["fault"] == "exact_duplicate")
    story = why(built, double["id"])[0]
    assert double["duplicate_of"] in [row["url"] for row in story.like]
    with pytest.raises(PairNotFound, match="has no pair 'http://nowhere'"):
        why(built, "http://nowhere")


def test_a_version_is_what_it_says_it_is_until_somebody_touches_it(built: Lake, tmp_path: Path) -> None:
    assert verify(built, "shapes", 1).same
    found = verify(built, "shapes")
    assert found.same
    assert (found.version, found.rows) == (2, len(ids_of(built, 2)))
    shutil.copytree(built.url, tmp_path / "lake")
    lake = Lake.open(str(tmp_path / "lake"))
    table = lake.table("datasets/shapes")
    first, second = sorted(table.files())[:2]
    path = Path(table.url) / first
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"x" + content[101:])
    assert verify(lake, "shapes").damaged == [first]
    path.write_bytes(content)
    assert verify(lake, "shapes").same
    lost = table.dataset(paths=[second]).to_table(columns=["id"])["id"].to_pylist()
    table.replace(
        [], [second], {"kept": 0, "inputs": table.last_record()["inputs"], "recipe": table.last_record()["recipe"]}
    )
    found = verify(lake, "shapes")
    assert sorted(found.missing) == sorted(lost)
    assert not found.same
