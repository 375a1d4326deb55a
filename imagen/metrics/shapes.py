"""Check with the built-in world's pixel checker whether a picture shows the shapes that its prompt names.

The checker finds the shapes in a picture. They are stored, and compared with the prompt later.
"""

import json
from dataclasses import asdict

import pyarrow as pa
from PIL import Image

from data.scorers.scorer import PictureScorer
from data.world.check import find_shapes
from data.world.grammar import claim_of
from data.world.scene import Claim, Phrase, Shape, is_true


class ShapesSeen(PictureScorer):
    """Stores the shapes that the pixel checker finds in a picture, as JSON."""

    columns = pa.schema({"shapes": pa.string()})

    def look(self, picture: Image.Image) -> dict[str, str]:
        """Return the picture's shapes, as a JSON list in the column `shapes`."""
        return {"shapes": json.dumps([asdict(shape) for shape in find_shapes(picture)])}


def matches_prompt(prompt: str, shapes: str, sizes: bool) -> bool:
    """Return whether a picture has the shapes that the prompt names, in the relation that it names.

    Args:
        prompt: a caption of the built-in world's language.
        shapes: the picture's shapes, as `ShapesSeen` stores them.
        sizes: whether the sizes must match too.
    """
    claim = claim_of(prompt)
    assert claim is not None, f"{prompt!r} is not in the world's language"
    if not sizes:
        claim = Claim(tuple(Phrase(phrase.kind, phrase.colour) for phrase in claim.phrases), claim.relation)
    return is_true(claim, [Shape(**shape) for shape in json.loads(shapes)])
