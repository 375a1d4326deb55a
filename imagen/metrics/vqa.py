"""Whether pictures show what their prompts say, by questions (TIFA, arXiv 2303.11897; VQAScore, arXiv 2404.01291).

Of each picture and each check of its prompt it is a fact what a model answers, and how probable it finds the answer
that is expected. Whether that is right is worked out from it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from data.engine.stage import Shard, ShardResult
from data.lake.lake import Lake
from data.lake.reading import read_pictures
from data.lake.shard_file import write_file
from data.lake.sql import query
from data.lake.table import Table
from data.pictures.prepare import decode
from data.scorers import pretrained
from data.scorers.clip import resolve_device
from data.scorers.scorer import SCORER_ERRORS, Scorer
from imagen.errors import SuiteError
from imagen.metrics.answers import answering, knows, plain
from imagen.metrics.hub_models import TEXT_TOO, files_of
from imagen.metrics.suites import Check, Suite

ASK_ROWS = 64  # of a shard: what a kill may lose, with a model that takes seconds a question


class Vqa(Scorer):
    """A list a picture, in the order of its prompt's checks; of length 0 where there are none."""

    columns = pa.schema({"answers": pa.list_(pa.string()), "probabilities": pa.list_(pa.float32())})
    runs_by = frozenset({"model", "device"})

    model: str = Field(description="a folder, or a model's name in the hub: dandelin/vilt-b32-finetuned-vqa")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")

    @property
    def id(self) -> str:
        return f"{super().id}-{pretrained.digest_files(files_of(self.model, TEXT_TOO))[:8]}"


@dataclass(frozen=True)
class Ask:
    """The stage: `images` and what their prompts are checked by → answers."""

    lake: Lake
    scorer: Vqa
    checks: tuple[tuple[Check, ...], ...]  # of each prompt, by its number
    name: str = "ask"
    ordered_commits: bool = False

    def outputs(self, lake: Lake) -> list[Table]:
        return [lake.table_or_make(self.scorer.table, self.scorer.schema)]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        return query(
            "SELECT id, file, extra FROM images JOIN pairs USING (id) ANTI JOIN answers USING (id) ORDER BY id",
            images=lake.table("images").read_with_files(bucket, ["id"]),
            pairs=lake.table("pairs").dataset(bucket),
            answers=outputs[0].dataset(bucket),
        )

    def work(self, shard: Shard) -> ShardResult:
        rows = shard.rows
        numbers = [json.loads(extra)["number"] for extra in rows["extra"].to_pylist()]
        pictures = zip(rows["id"].to_pylist(), numbers, read_pictures(self.lake, rows), strict=True)
        said = [{"id": id, **self._answered(picture, self.checks[number])} for id, number, picture in pictures]
        table = pa.Table.from_pylist(said, self.scorer.schema)
        return ShardResult(
            len(said), {self.scorer.table: write_file(self.lake.table_url(self.scorer.table), shard.bucket, table)}
        )

    def _answered(self, picture: bytes, checks: Sequence[Check]) -> dict[str, Any]:
        if not checks:
            return {"answers": [], "probabilities": []}
        try:
            image = decode(picture)
        except SCORER_ERRORS as error:
            return {"error": str(error)}
        found = answering(self.scorer.model, resolve_device(self.scorer.device)).answers(image, checks)
        return {"answers": [answer for answer, _ in found], "probabilities": [probability for _, probability in found]}


def asking(lake: Lake, scorer: Vqa, suite: Suite) -> Ask:
    """The stage, if the model can say what the suite wants to know."""
    checks = [check for prompt in suite.prompts for check in prompt.checks]
    if not checks:
        raise SuiteError(
            f"suite {suite.name} has no checks, so that nothing can be asked of its pictures: give its prompts "
            "`checks`, or leave vqa out"
        )
    if empty := next((check for check in checks if not plain(check.answer)), None):
        raise SuiteError(f"suite {suite.name} asks {empty.question!r} and expects no answer")
    knows(scorer.model, checks)
    return Ask(lake, scorer, tuple(prompt.checks for prompt in suite.prompts))


def vqa_score(probabilities: Sequence[float] | None) -> float:
    """The mean probability of what is expected of a picture; nan where nothing is."""
    return float(np.mean(probabilities)) if probabilities else math.nan


def vqa_right(answers: Sequence[str] | None, checks: Sequence[Check]) -> float:
    """The share of a picture's checks whose answer is the expected one; nan where there are none."""
    if not answers:
        return math.nan
    return float(np.mean([plain(answer) == plain(check.answer) for answer, check in zip(answers, checks, strict=True)]))
