"""What the world's pixel checker sees in a picture is a fact; whether a prompt says that is worked out from it."""

import json
from dataclasses import asdict

import pyarrow as pa
from PIL import Image

from data.scorers.scorer import PictureScorer
from data.world.check import find_shapes
from data.world.grammar import claim_of
from data.world.scene import Claim, Phrase, Shape, is_true


class ShapesSeen(PictureScorer):
    """The shapes of a picture, as JSON."""

    columns = pa.schema({"shapes": pa.string()})

    def look(self, picture: Image.Image) -> dict[str, str]:
        return {"shapes": json.dumps([asdict(shape) for shape in find_shapes(picture)])}


def shows(prompt: str, seen: str, sizes: bool) -> bool:
    """Whether these shapes are what a prompt of the world's language says, its sizes too or not."""
    claim = claim_of(prompt)
    assert claim is not None, f"{prompt!r} is not of the world's language"
    if not sizes:
        claim = Claim(tuple(Phrase(phrase.kind, phrase.colour) for phrase in claim.phrases), claim.relation)
    return is_true(claim, [Shape(**shape) for shape in json.loads(seen)])
