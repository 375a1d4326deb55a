"""Check by questions whether pictures show what their prompts describe.

The methods are TIFA (arXiv 2303.11897) and VQAScore (arXiv 2404.01291).

For each picture and each check of its prompt, the table has a model's answer and the probability of the expected
answer. The metrics are computed from the table.
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
from imagen.metrics.answers import check_expected_answers, load_answerer, normalize_answer
from imagen.metrics.hub_models import FILES_WITH_TEXT, matching_files
from imagen.metrics.suites import Check, Suite

ASK_ROWS = 64  # pictures of a shard: what is lost if a run is killed, where a question can take seconds


class Vqa(Scorer):
    """Answers the checks of a picture's prompt: a list for each picture, in their order, empty if there are none."""

    columns = pa.schema({"answers": pa.list_(pa.string()), "probabilities": pa.list_(pa.float32())})
    runs_by = frozenset({"model", "device"})

    model: str = Field(description="a folder, or a model's name in the hub: dandelin/vilt-b32-finetuned-vqa")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")

    @property
    def id(self) -> str:
        """The scorer's id, with a digest of the model's files instead of its name."""
        return f"{super().id}-{pretrained.digest_files(matching_files(self.model, FILES_WITH_TEXT))[:8]}"


@dataclass(frozen=True)
class AskChecks:
    """The stage: `images` and the checks of their prompts → answers."""

    lake: Lake
    scorer: Vqa
    checks: tuple[tuple[Check, ...], ...]  # of each prompt, by its number
    name: str = "ask"
    ordered_commits: bool = False

    def outputs(self, lake: Lake) -> list[Table]:
        """Return the scorer's table."""
        return [lake.table_or_make(self.scorer.table, self.scorer.schema)]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """Return the pictures of a bucket that have no answers yet, in the order of their ids."""
        return query(
            "SELECT id, file, extra FROM images JOIN pairs USING (id) ANTI JOIN answers USING (id) ORDER BY id",
            images=lake.table("images").read_with_files(bucket, ["id"]),
            pairs=lake.table("pairs").dataset(bucket),
            answers=outputs[0].dataset(bucket),
        )

    def work(self, shard: Shard) -> ShardResult:
        """Answer the checks of a shard's pictures, and write the answers to a file."""
        rows = shard.rows
        numbers = [json.loads(extra)["number"] for extra in rows["extra"].to_pylist()]
        pictures = zip(rows["id"].to_pylist(), numbers, read_pictures(self.lake, rows), strict=True)
        answer_rows = [{"id": id, **self._answer(picture, self.checks[number])} for id, number, picture in pictures]
        table = pa.Table.from_pylist(answer_rows, self.scorer.schema)
        file = write_file(self.lake.table_url(self.scorer.table), shard.bucket, table)
        return ShardResult(len(answer_rows), {self.scorer.table: file})

    def _answer(self, picture: bytes, checks: Sequence[Check]) -> dict[str, Any]:
        """Return the columns of a picture: its answers, or the reason why it can't be decoded."""
        if not checks:
            return {"answers": [], "probabilities": []}
        try:
            image = decode(picture)
        except SCORER_ERRORS as error:
            return {"error": str(error)}
        answers = load_answerer(self.scorer.model, resolve_device(self.scorer.device)).answers(image, checks)
        return {
            "answers": [answer for answer, _ in answers],
            "probabilities": [probability for _, probability in answers],
        }


def plan_questions(lake: Lake, scorer: Vqa, suite: Suite) -> AskChecks:
    """Return the stage that asks a suite's checks about the pictures of a lake.

    Raises:
        SuiteError: the suite has no checks, or a check has no answer.
        WeightsNotUsable: the model answers no questions, or can't give an expected answer.
    """
    checks = [check for prompt in suite.prompts for check in prompt.checks]
    if not checks:
        raise SuiteError(
            f"suite {suite.name} has no checks, so there is nothing to ask about its pictures: give its prompts "
            "`checks`, or leave vqa out"
        )
    for check in checks:
        if not normalize_answer(check.answer):
            raise SuiteError(f"suite {suite.name} asks {check.question!r} and expects no answer: add one to the check")
    check_expected_answers(scorer.model, checks)
    return AskChecks(lake, scorer, tuple(prompt.checks for prompt in suite.prompts))


def vqa_score(probabilities: Sequence[float] | None) -> float:
    """Return the mean probability of a picture's expected answers; nan if it has no checks."""
    return float(np.mean(probabilities)) if probabilities else math.nan


def vqa_accuracy(answers: Sequence[str] | None, checks: Sequence[Check]) -> float:
    """Return the share of a picture's checks that have the expected answer; nan if there are none."""
    if not answers:
        return math.nan
    pairs = zip(answers, checks, strict=True)
    return float(np.mean([normalize_answer(answer) == normalize_answer(check.answer) for answer, check in pairs]))
