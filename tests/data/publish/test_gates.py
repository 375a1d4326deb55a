"""Gates: what they stop, what they say, and that nothing else changes."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.build.recipe import parse_recipe
from data.errors import GateClosed, RecipeError
from data.lake.lake import Lake
from data.publish.versions import versions
from tests.conftest import content_of
from tests.lakes.empty import unprobed_lake
from tests.lakes.fetched import add_fetched_pairs, build_in_process, numbered_pairs, small_recipe
from tests.shared import copy_of

PAIRS = 40  # of which 38 have a picture and 34 more than one word
OPEN = "gates:\n  rows: {min: 10}\n  kept_share: {min: 0.5, max: 0.9}\n  drift: {max: 0.9}\n  no_nulls: [caption]\n"


@pytest.fixture(scope="module")
def gated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a lake of one version, which passed its gates, and its source. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("gated")
    lake, source = unprobed_lake(folder, 1), folder / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(PAIRS))
    assert build_in_process(lake, small_recipe(source, 0.2, OPEN)).version == 1
    return folder


@dataclass(frozen=True)
class ClosedGate:
    """A build that a gate stopped: the lake after it, and the sentence that the build ended with."""

    lake: Lake
    source: Path
    threshold: float
    sentence: str
    pattern: str  # of the sentence


@pytest.fixture(
    scope="module",
    params=[
        (0.95, "rows: {min: 5}", r"0 rows are below gates\.rows\.min 5; "),
        (0.6, "rows: {min: 30}", r"1\d rows are below gates\.rows\.min 30; "),
        (0.6, "kept_share: {min: 0.5}", r"kept share 0\.3\d* is below gates\.kept_share\.min 0\.5; "),
        (0.0, "kept_share: {max: 0.8}", r"kept share 0\.8\d* is above gates\.kept_share\.max 0\.8; "),
        (0.6, "drift: {max: 0.3}", r"picture_brightness drifted by 0\.\d+, above gates\.drift\.max 0\.3"),
    ],
    ids=["no rows", "few rows", "low share", "high share", "drift"],
)
def closed_gate(
    request: pytest.FixtureRequest, gated_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> ClosedGate:
    """Not to be changed by a test."""
    threshold, gate, pattern = request.param
    lake = copy_of(Lake.open(str(gated_folder / "lake")), tmp_path_factory.mktemp("closed") / "lake")
    source = gated_folder / "pairs.parquet"
    with pytest.raises(GateClosed) as raised:
        build_in_process(lake, small_recipe(source, threshold, f"gates:\n  {gate}\n"))
    return ClosedGate(lake, source, threshold, str(raised.value), pattern)


def test_a_closed_gate_names_figure_and_bound_in_one_sentence(closed_gate: ClosedGate) -> None:
    assert re.search(rf"^small was not published: .*{closed_gate.pattern}", closed_gate.sentence)
    assert "; small@1 stays current. " in closed_gate.sentence
    assert "\n" not in closed_gate.sentence


def test_a_closed_gate_leaves_the_version_as_it_was(closed_gate: ClosedGate, gated_folder: Path) -> None:
    before = Lake.open(str(gated_folder / "lake"))
    assert closed_gate.lake.table("datasets/small").version == before.table("datasets/small").version
    assert content_of(closed_gate.lake, "small") == content_of(before, "small")


def test_the_next_build_goes_on_with_what_was_scored_before_a_closed_gate(
    closed_gate: ClosedGate, tmp_path: Path
) -> None:
    lake = copy_of(closed_gate.lake, tmp_path / "lake")
    scored = lake.table("scores/picture-facts-1").version
    gates = "gates:\n  rows: {min: 1}\n" if closed_gate.threshold < 0.9 else ""
    rebuilt = build_in_process(lake, small_recipe(closed_gate.source, closed_gate.threshold, gates))
    assert rebuilt.version == 2
    assert rebuilt.rows == {"download": 0, "look": 0}, "what was scored is not done again"
    assert lake.table("scores/picture-facts-1").version == scored


def test_every_failed_check_is_named_and_a_first_version_can_fail_too(tmp_path: Path) -> None:
    lake, source = unprobed_lake(tmp_path, 1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(PAIRS))
    gates = "gates:\n  rows: {min: 35}\n  kept_share: {min: 0.9}\n  drift: {max: 0.01}\n"
    with pytest.raises(GateClosed, match=r"34 rows are below .*; kept share 0\.89.*; it has no version yet\."):
        build_in_process(lake, small_recipe(source, 0.0, gates))
    assert versions(lake, "small") == []


def test_a_null_in_a_column_that_may_have_none_closes_the_gate(tmp_path: Path) -> None:
    lake, source = unprobed_lake(tmp_path, 1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(20), broken=2)
    text = f"name: small\nsources: [{{path: {source}}}]\nscores: {{picture: }}\ngates:\n  no_nulls: "
    for columns in ("true", "[caption, picture_blur]"):
        with pytest.raises(GateClosed, match=r"column picture_blur is null in 2 rows, which gates\.no_nulls forbids"):
            build_in_process(lake, parse_recipe(text + columns, "small.yaml"))
    assert build_in_process(lake, parse_recipe(text + "[caption, url]", "small.yaml")).version == 1


def test_gates_are_not_checked_where_nothing_would_be_published(gated_folder: Path, tmp_path: Path) -> None:
    lake = copy_of(Lake.open(str(gated_folder / "lake")), tmp_path / "lake")
    again = build_in_process(lake, small_recipe(gated_folder / "pairs.parquet", 0.2, "gates:\n  rows: {min: 1000}\n"))
    assert (again.version, again.anything_done) == (1, False)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ("rows: {min: 0}", "gates.rows.min: Input should be greater than or equal to 1"),
        ("kept_share: {min: 0.9, max: 0.1}", "gates.kept_share: min 0.9 is above max 0.1"),
        ("drift: {max: 1, min: 1}", "gates.drift.min: there is no such field"),
        ("no_nulls: [clip_score]", "gates.no_nulls: there is no column 'clip_score'; there are id, url, caption"),
    ],
)
def test_a_wrong_gate_is_refused_with_its_line(gates: str, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(f"name: small\nsources: [{{path: x}}]\ngates:\n  {gates}\n", "small.yaml")
    assert str(raised.value).startswith(f"small.yaml, line 4: {message}")
