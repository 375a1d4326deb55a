"""A version is what it was when it was published, or it is said what is damaged and missing."""

from pathlib import Path

from data.lake.lake import Lake
from data.upkeep.verify import verify
from tests.shared import copy_of, published_ids


def test_an_untouched_version_is_what_it_says_it_is(built: Lake) -> None:
    assert verify(built, "shapes", 1).same
    verification = verify(built, "shapes")
    assert verification.same
    assert (verification.version, verification.rows) == (2, len(published_ids(built, 2)))


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
