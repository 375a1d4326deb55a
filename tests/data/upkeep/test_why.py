"""Why a pair is in a version or not."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.errors import PairNotFound
from data.lake.lake import Lake
from data.upkeep.why import why
from tests.shared import published_ids


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
    dropped = next(iter(published_ids(built, 1) - published_ids(built, 2)))
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
