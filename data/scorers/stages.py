"""The stages that run scorers: `Look` at pictures, `Judge` vectors, `Read` captions."""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from data.engine.stage import Shard, ShardResult
from data.lake.lake import Lake
from data.lake.reading import read_pictures, read_rows
from data.lake.schemas import IMAGES, PAIRS, VERDICTS
from data.lake.shard_file import write_file
from data.lake.sql import query
from data.lake.table import Table
from data.pictures.prepare import decode
from data.scorers.scorer import AHEAD, UNKNOWN, CaptionScorer, PictureScorer, Scorer, VectorScorer, unpacked

THREADS = 2  # that decode the next pictures while a model is at these


@dataclass(frozen=True)
class Look:
    """The stage: `images` → a table of each picture scorer; of all pictures, or of those that a dataset keeps."""

    lake: Lake
    scorers: tuple[PictureScorer, ...]
    name: str = "look"
    kept_by: str | None = None  # the dataset
    ordered_commits: bool = False

    def outputs(self, lake: Lake) -> list[Table]:
        return [lake.table_or_make(scorer.table, scorer.schema) for scorer in self.scorers]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """Pictures that some scorer has not seen; `todo` says which scorers."""
        seen = {f"seen{n}": table.dataset(bucket) for n, table in enumerate(outputs)}
        todo = ", ".join(f"CASE WHEN {name}.id IS NULL THEN {n} END" for n, name in enumerate(seen))
        joins = "".join(f" LEFT JOIN {name} ON {name}.id = images.id" for name in seen)
        kept = {}
        if self.kept_by is not None:
            kept = {"verdicts": lake.table_or_make(f"verdicts/{self.kept_by}", VERDICTS).dataset(bucket)}
            joins += " SEMI JOIN (SELECT id FROM verdicts WHERE kept) AS kept ON kept.id = images.id"
        return query(
            f"SELECT * FROM (SELECT images.id AS id, file, "
            f"list_filter([{todo}], lambda one: one IS NOT NULL) AS todo FROM images{joins}) "
            "WHERE len(todo) > 0 ORDER BY id",
            images=lake.table_or_make("images", IMAGES).read_with_files(bucket, ["id"]),
            **seen,
            **kept,
        )

    def work(self, shard: Shard) -> ShardResult:
        said = [_Said(scorer) for scorer in self.scorers]
        ids, todos = shard.rows["id"].to_pylist(), shard.rows["todo"].to_pylist()
        with ThreadPoolExecutor(THREADS, "look") as pool:
            ahead: deque[tuple[str, list[int], Future[list[Any]]]] = deque()
            for id, todo, picture in zip(ids, todos, read_pictures(self.lake, shard.rows), strict=True):
                ahead.append((id, todo, pool.submit(_look, picture, [self.scorers[n] for n in todo])))
                if len(ahead) > AHEAD:
                    _tell(said, *ahead.popleft())
            while ahead:
                _tell(said, *ahead.popleft())
        return _written(self.lake, shard, [(one.scorer, one.rows()) for one in said if one.ids])


@dataclass(frozen=True)
class _ToOneTable:
    """What the stages of one scorer share."""

    lake: Lake
    scorer: Any
    name: str
    ordered_commits: bool = False

    def outputs(self, lake: Lake) -> list[Table]:
        return [lake.table_or_make(self.scorer.table, self.scorer.schema)]


@dataclass(frozen=True)
class Judge(_ToOneTable):
    """The stage: vectors and captions → the table of one vector scorer."""

    scorer: VectorScorer

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        seen = {
            f"seen{n}": lake.table_or_make(one.table, one.schema).read_with_files(bucket, ["id"])
            for n, one in enumerate(self.scorer.sees())
        }
        files = ", ".join(f"{name}.file AS {name}" for name in seen)
        joins = "".join(f" JOIN {name} ON {name}.id = pairs.id" for name in seen)
        return query(
            f"SELECT pairs.id AS id, caption, {files} FROM pairs ANTI JOIN scores ON scores.id = pairs.id{joins} "
            "ORDER BY pairs.id",
            pairs=lake.table_or_make("pairs", PAIRS).dataset(bucket),
            scores=outputs[0].dataset(bucket),
            **seen,
        )

    def work(self, shard: Shard) -> ShardResult:
        rows = shard.rows
        read = [self._vectors(scorer, rows, f"seen{n}") for n, scorer in enumerate(self.scorer.sees())]
        errors = [next((one for one in told if one), None) for told in zip(*(e for _, e in read), strict=True)]
        known = [n for n, error in enumerate(errors) if error is None]
        vectors = [unpacked([packed[n] for n in known]) for packed, _ in read]
        captions = rows["caption"].take(pa.array(known, pa.int64())).to_pylist()
        said = self.scorer.judge(vectors, captions) if known else {}
        return _written(self.lake, shard, [(self.scorer, _rows(self.scorer, rows["id"], errors, known, said))])

    def _vectors(self, scorer: PictureScorer, rows: pa.Table, file: str) -> tuple[list[bytes | None], list[str | None]]:
        places = pa.table({"id": rows["id"], "file": rows[file]})
        parts = list(read_rows(self.lake, scorer.table, scorer.schema, ["vector", "error"], places))
        found = pa.concat_tables(parts) if parts else pa.table({"vector": [], "error": []})
        return found["vector"].to_pylist(), found["error"].to_pylist()


@dataclass(frozen=True)
class Read(_ToOneTable):
    """The stage: `pairs` → the table of one caption scorer. It needs no picture, and does not wait for one."""

    scorer: CaptionScorer

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        return query(
            "SELECT id, caption FROM pairs ANTI JOIN scores USING (id) ORDER BY id",
            pairs=lake.table_or_make("pairs", PAIRS).dataset(bucket),
            scores=outputs[0].dataset(bucket),
        )

    def work(self, shard: Shard) -> ShardResult:
        said = [self.scorer.read(caption) for caption in shard.rows["caption"].to_pylist()]
        rows = pa.Table.from_pylist(said, self.scorer.columns)
        rows = rows.add_column(0, "id", shard.rows["id"]).append_column("error", pa.nulls(rows.num_rows, pa.string()))
        return _written(self.lake, shard, [(self.scorer, rows)])


@dataclass
class _Said:
    """What one picture scorer says of a shard, gathered in batches of the size that it asks for."""

    scorer: PictureScorer
    ids: list[str] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)  # not yet said
    known: list[int] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, id: str, seen: Any) -> None:
        self.ids.append(id)
        self.errors.append(str(seen) if isinstance(seen, Exception) else None)
        if not isinstance(seen, Exception):
            self.known.append(len(self.ids) - 1)
            self.seen.append(seen)
            if len(self.seen) == self.scorer.at_once:
                self._say()

    def _say(self) -> None:
        for name, values in self.scorer.say(self.seen).items():
            self.columns.setdefault(name, []).extend(values)
        self.seen = []

    def rows(self) -> pa.Table:
        if self.seen:
            self._say()
        return _rows(self.scorer, self.ids, self.errors, self.known, self.columns)


def _look(picture: bytes, scorers: list[PictureScorer]) -> list[Any]:
    """What each scorer sees in a picture, or the exception that says why nothing."""
    try:
        image = decode(picture)
    except UNKNOWN as error:
        return [error] * len(scorers)
    seen = []
    for scorer in scorers:
        try:
            seen.append(scorer.look(image))
        except UNKNOWN as error:
            seen.append(error)
    return seen


def _tell(said: list[_Said], id: str, todo: list[int], seen: "Future[list[Any]]") -> None:
    for n, one in zip(todo, seen.result(), strict=True):
        said[n].add(id, one)


def _rows(scorer: Scorer, ids: Any, errors: list[str | None], known: list[int], said: Mapping[str, Any]) -> pa.Table:
    """What was said at the places that are known, among nulls."""
    columns: dict[str, list[Any]] = {name: [None] * len(errors) for name in scorer.columns.names}
    for name, values in said.items():
        for place, value in zip(known, values, strict=True):
            columns[name][place] = value
    return pa.table({"id": ids, **columns, "error": pa.array(errors, pa.string())}).cast(scorer.schema)


def _written(lake: Lake, shard: Shard, said: list[tuple[Any, pa.Table]]) -> ShardResult:
    files = {s.table: write_file(lake.table_url(s.table), shard.bucket, rows) for s, rows in said}
    return ShardResult(shard.rows.num_rows, files)
