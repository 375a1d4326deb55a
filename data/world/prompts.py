"""Prompts of the world's language that were never a caption, and how many pictures of them are right."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.world.check import find_shapes
from data.world.grammar import KIND_WORDS, OPENINGS, RELATION_WORDS, SIZE_WORDS, claim_of, with_article
from data.world.scene import COLOURS, KINDS, Phrase, is_true

SUITE = {"one shape": 40, "size": 40, "two shapes": 30, "relation": 40, "three shapes": 20, "new together": 30}


@dataclass(frozen=True)
class Alignment:
    """Of so many prompts, in how many the picture shows what they say, by its pixels."""

    prompts: int
    right: int  # every shape is there in its colour, and where the relation says
    sized: int  # and of its size

    @property
    def share(self) -> float:
        return self.right / self.prompts


def unseen_prompts(seen: Container[str], count: int, seed: int = 0, shapes: int = 1) -> list[str]:
    """Prompts of one shape, or of two and their relation, none of which is in `seen`."""
    rng, found = np.random.default_rng(seed), dict[str, None]()
    while len(found) < count:
        text = _phrase(rng)
        if shapes == 2:
            relation = str(rng.choice(RELATION_WORDS[str(rng.choice(["left of", "above"]))]))
            text += f" {relation} {_phrase(rng)}"
        prompt = f"{rng.choice(OPENINGS)}{text}"
        if prompt not in seen:
            found[prompt] = None
    return list(found)


def shapes_prompts(seed: int = 0) -> list[tuple[str, str]]:
    """The suite `shapes`: category and prompt, 200 in all, by what they ask of a model.

    `new together` is of two shapes in one colour: no world has such a picture, whatever its seed.
    """
    rng, found = np.random.default_rng(seed), dict[str, str]()
    for category, count in SUITE.items():
        wanted = len(found) + count
        while len(found) < wanted:
            found.setdefault(_asked(rng, category), category)
    return [(category, text) for text, category in found.items()]


def _asked(rng: np.random.Generator, category: str) -> str:
    shapes = {"two shapes": 2, "relation": 2, "new together": 2, "three shapes": 3}.get(category, 1)
    colours = [str(colour) for colour in rng.choice(list(COLOURS), shapes, replace=False)]
    if category == "new together":
        colours = colours[:1] * shapes
    sizes = {"one shape": [""], "size": list(SIZE_WORDS)}.get(category, ["", *SIZE_WORDS])
    phrases = []
    for colour in colours:
        kind, size = str(rng.choice(list(KINDS))), str(rng.choice(sizes))
        phrases.append(with_article(f"{size} {colour} {kind}".strip()))
    if category in ("relation", "new together"):
        relation = str(rng.choice(["left of", "above"]))
        return f"{phrases[0]} {RELATION_WORDS[relation][0]} {phrases[1]}"
    return " and ".join(phrases)


def _phrase(rng: np.random.Generator) -> str:
    kind, colour, size = (str(rng.choice(list(words))) for words in (KINDS, COLOURS, ["", *SIZE_WORDS]))
    word = str(rng.choice(SIZE_WORDS[size])) + " " if size else ""
    return with_article(f"{word}{colour} {rng.choice(KIND_WORDS[kind])}")


def aligned(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Alignment:
    """Look at the pixels of each picture."""
    right = sized = 0
    for picture, prompt in zip(pictures, prompts, strict=True):
        claim = claim_of(prompt)
        assert claim is not None, f"{prompt!r} is not of the world's language"
        shapes = find_shapes(picture)
        plain = tuple(Phrase(phrase.kind, phrase.colour, None) for phrase in claim.phrases)
        right += is_true(type(claim)(plain, claim.relation), shapes)
        sized += is_true(claim, shapes)
    return Alignment(len(prompts), right, sized)
