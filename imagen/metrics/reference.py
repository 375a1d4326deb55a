"""The real pictures that made ones are compared with: those of a dataset version, each looked at once an extractor."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.lake.lake import Lake
from data.lake.sql import query
from data.lake.table import Table
from data.scorers.scorer import PictureScorer, unpack_vectors
from data.scorers.stages import ScorePictures
from imagen.errors import TooFewSamples


@dataclass(frozen=True)
class LookAtVersion(ScorePictures):
    """The stage: of `images` those that a dataset version holds. What was seen for another version is not pending."""

    dataset: str = ""
    version: int = 0
    name: str = "look at the reference"

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        return query(
            "SELECT pending.* FROM pending SEMI JOIN published USING (id) ORDER BY id",
            pending=super().pending(lake, outputs, bucket),
            published=lake.table(f"datasets/{self.dataset}", self.version).read_with_files(bucket, ["id"]),
        )


def vectors_of(lake: Lake, scorer: PictureScorer, table: str, version: int | None = None) -> np.ndarray:
    """The vectors of a table's pictures, in the order of their ids; those that could not be looked at are left out."""
    found = query(
        "SELECT vector FROM seen SEMI JOIN wanted USING (id) WHERE vector IS NOT NULL ORDER BY id",
        seen=lake.table(scorer.table).dataset(),
        wanted=lake.table(table, version).dataset(),
    )
    if not found.num_rows:
        at = f"@{version}" if version is not None else ""
        raise TooFewSamples(
            f"{lake.url} has no picture of {table.removeprefix('datasets/')}{at} that could be looked at"
        )
    return unpack_vectors(found["vector"].to_pylist())
