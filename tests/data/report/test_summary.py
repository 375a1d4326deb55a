"""A version gives account of itself: what changed, why a pair is in or out, and whether it is what it says it is."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.errors import DatasetVersionNotFound, PairNotFound
from data.lake.lake import Lake
from data.upkeep.diff import Diff, diff
from data.upkeep.verify import verify
from data.upkeep.why import why
from tests.shared import copy_of


def ids_of(lake: Lake, version: int) -> set[str]:
    return set(lake.table("datasets/shapes", version).dataset().to_table(columns=["id"])["id"].to_pylist())


@pytest.fixture(scope="module")
def stricter(built: Lake) -> Diff:
    """From shapes@1 to shapes@2, which is by a stricter recipe."""
    return diff(built, "shapes", 1, 2)


def test_a_diff_adds_up(built: Lake, stricter: Diff) -> None:
    first, second = ids_of(built, 1), ids_of(built, 2)
    assert (stricter.before, stricter.after) == (len(first), len(second))
    assert stricter.before - stricter.out + stricter.into == stricter.after
    assert set(stricter.out_ids) == first - second


def test_a_diff_says_why_pairs_went_and_how_far_scores_moved(stricter: Diff) -> None:
    assert stricter.why_out == {"clip_score < 0.42": stricter.out}
    shift = next(shift for shift in stricter.shifts if shift.score == "clip_score")
    assert shift.after[0] >= 0.42 > shift.before[0]
    assert 0 < shift.distance < 1


def test_a_diff_backwards_swaps_in_and_out(built: Lake, stricter: Diff) -> None:
    back = diff(built, "shapes", 2, 1)
    assert (back.into, back.out, back.why_in) == (stricter.out, stricter.into, stricter.why_out)


def test_a_version_does_not_differ_from_itself(built: Lake) -> None:
    same = diff(built, "shapes", 2, 2)
    assert (same.into, same.out, same.changed) == (0, 0, 0)
    assert all(shift.distance == 0 for shift in same.shifts)


def test_a_diff_with_a_version_that_does_not_exist_names_those_that_do(built: Lake) -> None:
    with pytest.raises(
        DatasetVersionNotFound, match=r"shapes@9 does not exist .* published versions: shapes@2, shapes@1"
    ):
        diff(built, "shapes", 1, 9)


@pytest.fixture(scope="module")
def labels(world: Path) -> list[dict[str, Any]]:
    return pq.read_table(world / "labels.parquet").to_pylist()


def test_why_says_of_a_picture_that_was_not_fetched_what_its_url_answered(
    built: Lake, labels: list[dict[str, Any]]
) -> None:
    gone = next(label for label in labels if label["origin"] == "gone")
    story = why(built, gone["url"])[0]
    assert story.pair["id"] == gone["id"]
    assert [fetch["status"] for fetch in story.fetches] == ["gone"]
    assert story.image is None
    assert [(verdict.version, verdict.kept, verdict.reasons) for verdict in story.verdicts] == [
        (1, False, ["not fetched: gone"]),
        (2, False, ["not fetched: gone"]),
    ]


def test_why_says_in_which_versions_a_pair_is_and_its_scores(built: Lake) -> None:
    dropped = next(iter(ids_of(built, 1) - ids_of(built, 2)))
    story = why(built, dropped)[0]
    assert story.image is not None
    assert "image" not in story.image
    assert [verdict.kept for verdict in story.verdicts] == [True, False]
    assert {name.partition("-1")[0] for name in story.scores} == {"caption", "perceptual-hash", "clip-score"}


def test_why_names_the_pairs_that_a_duplicate_is_like(built: Lake, labels: list[dict[str, Any]]) -> None:
    double = next(label for label in labels if label["fault"] == "exact_duplicate")
    story = why(built, double["id"])[0]
    assert double["duplicate_of"] in [row["url"] for row in story.like]


def test_why_of_a_url_that_the_lake_does_not_have_is_an_error(built: Lake) -> None:
    with pytest.raises(PairNotFound, match="has no pair 'http://nowhere'"):
        why(built, "http://nowhere")


def test_an_untouched_version_is_what_it_says_it_is(built: Lake) -> None:
    assert verify(built, "shapes", 1).same
    verification = verify(built, "shapes")
    assert verification.same
    assert (verification.version, verification.rows) == (2, len(ids_of(built, 2)))


def test_a_byte_that_changed_is_noticed_until_it_is_put_back(built: Lake, tmp_path: Path) -> None:
    lake = copy_of(built, tmp_path / "lake")
    table = lake.table("datasets/shapes")
    file = min(table.files())
    path = Path(table.url) / file
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"x" + content[101:])
    assert verify(lake, "shapes").damaged == [file]
    path.write_bytes(content)
    assert verify(lake, "shapes").same


def test_rows_that_are_missing_are_named(built: Lake, tmp_path: Path) -> None:
    lake = copy_of(built, tmp_path / "lake")
    table = lake.table("datasets/shapes")
    file = max(table.files())
    lost = table.dataset(paths=[file]).to_table(columns=["id"])["id"].to_pylist()
    record = table.last_record()
    table.replace([], [file], {"kept": 0, "inputs": record["inputs"], "recipe": record["recipe"]})
    verification = verify(lake, "shapes")
    assert sorted(verification.missing) == sorted(lost)
    assert not verification.same
