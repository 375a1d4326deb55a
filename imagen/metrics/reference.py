"""The real pictures that generated ones are compared with: those of a dataset version, scored once by an extractor."""

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
class ScoreReference(ScorePictures):
    """The stage that scores the pictures of a dataset version. Pictures scored for other versions are not repeated."""

    dataset: str = ""
    version: int = 0
    name: str = "look at the reference"

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """Return the version's pictures of a bucket that a scorer lacks, in the order of their ids."""
        return query(
            "SELECT pending.* FROM pending SEMI JOIN published USING (id) ORDER BY id",
            pending=super().pending(lake, outputs, bucket),
            published=lake.table(f"datasets/{self.dataset}", self.version).read_with_files(bucket, ["id"]),
        )


def load_vectors(lake: Lake, scorer: PictureScorer, table: str, version: int | None = None) -> np.ndarray:
    """Return the vectors of a table's pictures (n d), in the order of their ids.

    Args:
        scorer: the scorer whose vectors are loaded. Pictures that it could not score are left out.
        table: a table whose ids are pictures, such as `datasets/NAME`.
        version: the version of the table; by default the newest.

    Raises:
        TooFewSamples: no picture of the table has a vector.
    """
    rows = query(
        "SELECT vector FROM scores SEMI JOIN wanted USING (id) WHERE vector IS NOT NULL ORDER BY id",
        scores=lake.table(scorer.table).dataset(),
        wanted=lake.table(table, version).dataset(),
    )
    if not rows.num_rows:
        at = f"@{version}" if version is not None else ""
        raise TooFewSamples(
            f"{lake.url}: none of the pictures of {table.removeprefix('datasets/')}{at} could be scored by {scorer.id}"
        )
    return unpack_vectors(rows["vector"].to_pylist())
