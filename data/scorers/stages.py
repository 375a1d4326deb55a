"""The stages that run scorers on pictures, on stored vectors, and on captions. Each scorer has its own table."""

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
from data.scorers.scorer import (
    DECODE_AHEAD,
    SCORER_ERRORS,
    CaptionScorer,
    Columns,
    PictureScorer,
    Scorer,
    VectorScorer,
    method_of,
    unpack_vectors,
)

THREADS = 2  # threads that decode the next pictures while a model runs


@dataclass(frozen=True)
class ScorePictures:
    """The stage that runs picture scorers on the table `images`, and fills one table per scorer.

    Each picture is read and decoded once for all scorers.

    Attributes:
        kept_by: the name of a dataset. Only pictures that this dataset keeps are scored; by default all pictures are.
    """

    lake: Lake
    scorers: tuple[PictureScorer, ...]
    name: str = "look"
    kept_by: str | None = None
    ordered_commits: bool = False

    def outputs(self, lake: Lake) -> list[Table]:
        """Return the tables of the scorers, in the order of the scorers."""
        return [lake.table_or_make(scorer.table, scorer.schema) for scorer in self.scorers]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """Return the pictures that at least one scorer has not scored. `todo` lists the indices of these scorers."""
        scores = {f"scores{n}": table.dataset(bucket) for n, table in enumerate(outputs)}
        todo = ", ".join(f"CASE WHEN {name}.id IS NULL THEN {n} END" for n, name in enumerate(scores))
        joins = "".join(f" LEFT JOIN {name} ON {name}.id = images.id" for name in scores)
        verdicts = {}
        if self.kept_by is not None:
            verdicts = {"verdicts": lake.table_or_make(f"verdicts/{self.kept_by}", VERDICTS).dataset(bucket)}
            joins += " SEMI JOIN (SELECT id FROM verdicts WHERE kept) AS kept ON kept.id = images.id"
        return query(
            f"SELECT * FROM (SELECT images.id AS id, file, "
            f"list_filter([{todo}], lambda n: n IS NOT NULL) AS todo FROM images{joins}) "
            "WHERE len(todo) > 0 ORDER BY id",
            images=lake.table_or_make("images", IMAGES).read_with_files(bucket, ["id"]),
            **scores,
            **verdicts,
        )

    def work(self, shard: Shard) -> ShardResult:
        """Score a shard's pictures. While a model runs, threads decode the next pictures."""
        batches = [_ScorerBatches(scorer) for scorer in self.scorers]
        ids, todos = shard.rows["id"].to_pylist(), shard.rows["todo"].to_pylist()
        with ThreadPoolExecutor(THREADS, "look") as pool:
            waiting: deque[tuple[str, list[int], Future[list[Any]]]] = deque()
            for id, todo, picture in zip(ids, todos, read_pictures(self.lake, shard.rows), strict=True):
                waiting.append((id, todo, pool.submit(_look, picture, [self.scorers[n] for n in todo])))
                if len(waiting) > DECODE_AHEAD:
                    _add_looks(batches, *waiting.popleft())
            while waiting:
                _add_looks(batches, *waiting.popleft())
        return _write(self.lake, shard, [(batch.scorer, batch.rows()) for batch in batches if batch.ids])


@dataclass(frozen=True)
class _OneScorerStage:
    """The common part of stages that run a single scorer."""

    lake: Lake
    scorer: Any
    name: str
    ordered_commits: bool = False

    def outputs(self, lake: Lake) -> list[Table]:
        return [lake.table_or_make(self.scorer.table, self.scorer.schema)]


@dataclass(frozen=True)
class ScoreVectors(_OneScorerStage):
    """The stage that runs a vector scorer on stored vectors and captions. It reads no pictures."""

    scorer: VectorScorer

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """Return the pairs that have all vectors this scorer needs, but no score yet.

        Each row names the files of the vectors.
        """
        inputs = {
            f"vectors{n}": lake.table_or_make(scorer.table, scorer.schema).read_with_files(bucket, ["id"])
            for n, scorer in enumerate(method_of(self.scorer, "inputs")())
        }
        files = ", ".join(f"{name}.file AS {name}" for name in inputs)
        joins = "".join(f" JOIN {name} ON {name}.id = pairs.id" for name in inputs)
        return query(
            f"SELECT pairs.id AS id, caption, {files} FROM pairs ANTI JOIN scores ON scores.id = pairs.id{joins} "
            "ORDER BY pairs.id",
            pairs=lake.table_or_make("pairs", PAIRS).dataset(bucket),
            scores=outputs[0].dataset(bucket),
            **inputs,
        )

    def work(self, shard: Shard) -> ShardResult:
        """Score a shard's pairs. If a pair has no vector, its error is the one that the vector's scorer recorded."""
        rows = shard.rows
        packed: list[list[bytes | None]] = []
        errors: list[str | None] = [None] * rows.num_rows
        for n, scorer in enumerate(method_of(self.scorer, "inputs")()):
            vectors, vector_errors = self._read_vectors(scorer, rows, f"vectors{n}")
            packed.append(vectors)
            errors = [error or other for error, other in zip(errors, vector_errors, strict=True)]
        scored = [index for index, error in enumerate(errors) if error is None]
        columns: Columns = {}
        if scored:
            arrays = []
            for vectors in packed:
                arrays.append(unpack_vectors([vectors[index] for index in scored]))
            captions = rows["caption"].take(pa.array(scored, pa.int64())).to_pylist()
            columns = self.scorer.judge(arrays, captions)
        return _write(self.lake, shard, [(self.scorer, _rows(self.scorer, rows["id"], errors, scored, columns))])

    def _read_vectors(
        self, scorer: PictureScorer, rows: pa.Table, file_column: str
    ) -> tuple[list[bytes | None], list[str | None]]:
        """Read the packed vectors of some rows, and the error of each row that has no vector."""
        rows_with_files = pa.table({"id": rows["id"], "file": rows[file_column]})
        parts = list(read_rows(self.lake, scorer.table, scorer.schema, ["vector", "error"], rows_with_files))
        table = pa.concat_tables(parts) if parts else pa.table({"vector": [], "error": []})
        return table["vector"].to_pylist(), table["error"].to_pylist()


@dataclass(frozen=True)
class ScoreCaptions(_OneScorerStage):
    """The stage that runs a caption scorer on the table `pairs`. It does not wait for pictures."""

    scorer: CaptionScorer

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """Return the pairs whose captions have no score yet."""
        return query(
            "SELECT id, caption FROM pairs ANTI JOIN scores USING (id) ORDER BY id",
            pairs=lake.table_or_make("pairs", PAIRS).dataset(bucket),
            scores=outputs[0].dataset(bucket),
        )

    def work(self, shard: Shard) -> ShardResult:
        """Score a shard's captions."""
        scores = [self.scorer.read(caption) for caption in shard.rows["caption"].to_pylist()]
        rows = pa.Table.from_pylist(scores, self.scorer.columns)
        rows = rows.add_column(0, "id", shard.rows["id"]).append_column("error", pa.nulls(rows.num_rows, pa.string()))
        return _write(self.lake, shard, [(self.scorer, rows)])


@dataclass
class _ScorerBatches:
    """Collects one picture scorer's rows of a shard, and scores them in batches of the scorer's preferred size."""

    scorer: PictureScorer
    ids: list[str] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)
    batch: list[Any] = field(default_factory=list)  # results of `look` that are not scored yet
    scored: list[int] = field(default_factory=list)  # indices of the rows without an error
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, id: str, look: Any) -> None:
        """Add the result or the exception of `look` for one picture. A full batch is scored immediately."""
        self.ids.append(id)
        self.errors.append(str(look) if isinstance(look, Exception) else None)
        if not isinstance(look, Exception):
            self.scored.append(len(self.ids) - 1)
            self.batch.append(look)
            if len(self.batch) == method_of(self.scorer, "max_batch"):
                self._score_batch()

    def _score_batch(self) -> None:
        for name, values in method_of(self.scorer, "score_batch")(self.batch).items():
            self.columns.setdefault(name, []).extend(values)
        self.batch = []

    def rows(self) -> pa.Table:
        if self.batch:
            self._score_batch()
        return _rows(self.scorer, self.ids, self.errors, self.scored, self.columns)


def _look(picture: bytes, scorers: list[PictureScorer]) -> list[Any]:
    """Return, for each scorer, the result of its `look` on a picture, or the exception that `look` raised."""
    try:
        image = decode(picture)
    except SCORER_ERRORS as error:
        return [error] * len(scorers)
    looks = []
    for scorer in scorers:
        try:
            looks.append(scorer.look(image))
        except SCORER_ERRORS as error:
            looks.append(error)
    return looks


def _add_looks(batches: list[_ScorerBatches], id: str, todo: list[int], looks: "Future[list[Any]]") -> None:
    for n, look in zip(todo, looks.result(), strict=True):
        batches[n].add(id, look)


def _rows(scorer: Scorer, ids: Any, errors: list[str | None], scored: list[int], scores: Mapping[str, Any]) -> pa.Table:
    """Return the rows of a scorer's table: scores at the indices in `scored`, and nulls elsewhere."""
    columns: dict[str, list[Any]] = {name: [None] * len(errors) for name in scorer.columns.names}
    for name, values in scores.items():
        for index, value in zip(scored, values, strict=True):
            columns[name][index] = value
    return pa.table({"id": ids, **columns, "error": pa.array(errors, pa.string())}).cast(scorer.schema)


def _write(lake: Lake, shard: Shard, tables: list[tuple[Any, pa.Table]]) -> ShardResult:
    files = {scorer.table: write_file(lake.table_url(scorer.table), shard.bucket, rows) for scorer, rows in tables}
    return ShardResult(shard.rows.num_rows, files)
