"""A scorer of a test's own, as a module beside its recipe."""

from pathlib import Path
from textwrap import indent

MODULE = """
import pyarrow as pa
from data.scorers.scorer import CaptionScorer
{setup}

class Letters(CaptionScorer):
    columns = pa.schema({{'letters': pa.int32()}})

    def read(self, caption):
{before}
        return {{'letters': len(caption)}}
"""


def write_letters(folder: Path, name: str = "letters", setup: str = "", before: str = "") -> None:
    """Write the module `name` with the scorer `Letters`, which counts a caption's letters.

    Args:
        setup: lines that run when the module is imported
        before: lines that run before a caption is counted
    """
    text = MODULE.format(setup=setup, before=indent(before, 8 * " "))
    (folder / f"{name}.py").write_text(text)
