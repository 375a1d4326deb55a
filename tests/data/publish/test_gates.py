"""Gates: what they stop, what they say, and that nothing else changes."""

import shutil
from pathlib import Path

import pytest

from data.build.recipe import parse_recipe
from data.errors import GateClosed, RecipeError
from data.lake.lake import Lake
from data.publish.versions import versions
from tests.conftest import content_of
from tests.lakes.fetched import add_fetched_pairs, build_in_process, numbered_pairs, small_recipe

PAIRS = 40  # of which 38 have a picture and 34 more than one word
OPEN = "gates:\n  rows: {min: 10}\n  kept_share: {min: 0.5, max: 0.9}\n  drift: {max: 0.9}\n  no_nulls: [caption]\n"


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a lake with one version, which passed its gates, and its source."""
    folder = tmp_path_factory.mktemp("built")
    lake, source = Lake.make(str(folder / "lake"), buckets=1), folder / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(PAIRS))
    assert build_in_process(lake, small_recipe(source, 0.2, OPEN)).version == 1
    return folder


@pytest.fixture
def gated_lake(built_once: Path, tmp_path: Path) -> tuple[Lake, Path]:
    """A copy of that lake for one test, and its source."""
    shutil.copytree(built_once / "lake", tmp_path / "lake")
    return Lake.open(str(tmp_path / "lake")), built_once / "pairs.parquet"


@pytest.mark.parametrize(
    ("threshold", "gate", "message"),
    [
        (0.95, "rows: {min: 5}", r"0 rows are below gates\.rows\.min 5; "),
        (0.6, "rows: {min: 30}", r"1\d rows are below gates\.rows\.min 30; "),
        (0.6, "kept_share: {min: 0.5}", r"kept share 0\.3\d* is below gates\.kept_share\.min 0\.5; "),
        (0.0, "kept_share: {max: 0.8}", r"kept share 0\.8\d* is above gates\.kept_share\.max 0\.8; "),
        (0.6, "drift: {max: 0.3}", r"picture_brightness drifted by 0\.\d+, above gates\.drift\.max 0\.3"),
    ],
)
def test_a_closed_gate_says_figure_and_bound_and_the_version_before_stays(
    gated_lake: tuple[Lake, Path], threshold: float, gate: str, message: str
) -> None:
    lake, source = gated_lake
    before, state = content_of(lake, "small"), lake.table("datasets/small").version
    with pytest.raises(GateClosed, match=rf"^small was not published: .*{message}") as raised:
        build_in_process(lake, small_recipe(source, threshold, f"gates:\n  {gate}\n"))
    assert "; small@1 stays current. " in str(raised.value)
    assert "\n" not in str(raised.value)
    assert lake.table("datasets/small").version == state
    assert content_of(lake, "small") == before
    scored = lake.table("scores/picture-facts-1").version
    rebuilt = build_in_process(
        lake, small_recipe(source, threshold, "gates:\n  rows: {min: 1}\n" if threshold < 0.9 else "")
    )
    assert rebuilt.version == 2, "the next build goes on"
    assert rebuilt.rows == {"download": 0, "look": 0}, "what was scored is not done again"
    assert lake.table("scores/picture-facts-1").version == scored


def test_every_failed_check_is_named_and_a_first_version_can_fail_too(tmp_path: Path) -> None:
    lake, source = Lake.make(str(tmp_path / "lake"), buckets=1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(PAIRS))
    gates = "gates:\n  rows: {min: 35}\n  kept_share: {min: 0.9}\n  drift: {max: 0.01}\n"
    with pytest.raises(GateClosed, match=r"34 rows are below .*; kept share 0\.89.*; it has no version yet\."):
        build_in_process(lake, small_recipe(source, 0.0, gates))
    assert versions(lake, "small") == []


def test_a_null_in_a_column_that_may_have_none_closes_the_gate(tmp_path: Path) -> None:
    lake, source = Lake.make(str(tmp_path / "lake"), buckets=1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(20), broken=2)
    text = f"name: small\nsources: [{{path: {source}}}]\nscores: {{picture: }}\ngates:\n  no_nulls: "
    for columns in ("true", "[caption, picture_blur]"):
        with pytest.raises(GateClosed, match=r"column picture_blur is null in 2 rows, which gates\.no_nulls forbids"):
            build_in_process(lake, parse_recipe(text + columns, "small.yaml"))
    assert build_in_process(lake, parse_recipe(text + "[caption, url]", "small.yaml")).version == 1


def test_gates_are_not_asked_where_nothing_would_be_published(gated_lake: tuple[Lake, Path]) -> None:
    lake, source = gated_lake
    again = build_in_process(lake, small_recipe(source, 0.2, "gates:\n  rows: {min: 1000}\n"))
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
def test_a_wrong_gate_is_told_with_its_line(gates: str, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(f"name: small\nsources: [{{path: x}}]\ngates:\n  {gates}\n", "small.yaml")
    assert str(raised.value).startswith(f"small.yaml, line 4: {message}")
