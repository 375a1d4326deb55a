"""What changed between two versions, and why."""

import pytest

from data.errors import DatasetVersionNotFound
from data.lake.lake import Lake
from data.upkeep.diff import Diff, diff
from tests.shared import published_ids


@pytest.fixture(scope="module")
def stricter(built: Lake) -> Diff:
    """From shapes@1 to shapes@2, which is by a stricter recipe."""
    return diff(built, "shapes", 1, 2)


def test_a_diff_adds_up(built: Lake, stricter: Diff) -> None:
    first, second = published_ids(built, 1), published_ids(built, 2)
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
