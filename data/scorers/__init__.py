"""Scorers: facts about pictures and captions, one small class in a file for each subject. For a scorer of your own:
`from data.scorers import PictureScorer, CaptionScorer, VectorScorer, Describer`, see docs/scorers.md.

Belongs here: scorers, the stages that run them, the weights that they load. Not: thresholds on scores (data/select).
Start with `scorer.py`, the classes that scorers derive from; then `pixels.py`, a simple scorer.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.scorers.scorer import CaptionScorer, Describer, PictureScorer, VectorScorer

__all__ = ["CaptionScorer", "Describer", "PictureScorer", "VectorScorer"]


def __getattr__(name: str) -> Any:
    """Import the classes when they are used, so that `data.scorers.pretrained` alone stays cheap to import."""
    if name in __all__:
        from data.scorers import scorer

        return getattr(scorer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
