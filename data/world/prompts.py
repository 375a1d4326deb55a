"""Prompts in the language of the built-in world, and a count of the pictures that show what their prompt says."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.world.check import find_shapes
from data.world.grammar import KIND_WORDS, OPENINGS, RELATION_WORDS, SIZE_WORDS, claim_of, with_article
from data.world.scene import COLOURS, KINDS, Claim, Phrase, is_true

# Category of prompts → number of prompts. `new together` has two shapes in one colour, which no scene of a world has.
SUITE = {"one shape": 40, "size": 40, "two shapes": 30, "relation": 40, "three shapes": 20, "new together": 30}


@dataclass(frozen=True)
class Alignment:
    """Counts of the pictures that show what their prompt says."""

    prompts: int
    right: int  # pictures with the shapes, colours and relation of the prompt
    sized: int  # of those, pictures with the sizes of the prompt too

    @property
    def share(self) -> float:
        """The share of correct pictures, from 0 to 1."""
        return self.right / self.prompts


def unseen_prompts(seen: Container[str], count: int, seed: int = 0, shapes: int = 1) -> list[str]:
    """Make distinct prompts that are not in `seen`, which may be the captions of a training set.

    Args:
        seen: texts to avoid.
        count: the number of prompts.
        seed: decides the prompts.
        shapes: 1, or 2 with a relation between them.
    """
    rng, prompts = np.random.default_rng(seed), dict[str, None]()
    while len(prompts) < count:
        text = _random_phrase(rng)
        if shapes == 2:
            relation = str(rng.choice(RELATION_WORDS[str(rng.choice(["left of", "above"]))]))
            text += f" {relation} {_random_phrase(rng)}"
        prompt = f"{rng.choice(OPENINGS)}{text}"
        if prompt not in seen:
            prompts[prompt] = None
    return list(prompts)


def shapes_prompts(seed: int = 0) -> list[tuple[str, str]]:
    """Make the 200 distinct prompts of the suite `shapes`, each with its category."""
    rng, category_of = np.random.default_rng(seed), dict[str, str]()
    for category, count in SUITE.items():
        total = len(category_of) + count
        while len(category_of) < total:
            category_of.setdefault(_suite_prompt(rng, category), category)
    return [(category, prompt) for prompt, category in category_of.items()]


def _suite_prompt(rng: np.random.Generator, category: str) -> str:
    """Make a random prompt of a category."""
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


def _random_phrase(rng: np.random.Generator) -> str:
    """Describe a random shape in random words, possibly without a size."""
    kind, colour, size = (str(rng.choice(list(words))) for words in (KINDS, COLOURS, ["", *SIZE_WORDS]))
    word = str(rng.choice(SIZE_WORDS[size])) + " " if size else ""
    return with_article(f"{word}{colour} {rng.choice(KIND_WORDS[kind])}")


def measure_alignment(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Alignment:
    """Check each picture against its prompt. Only the pixels of the picture are used."""
    right = sized = 0
    for picture, prompt in zip(pictures, prompts, strict=True):
        claim = claim_of(prompt)
        assert claim is not None, f"{prompt!r} is not in the world's language"
        shapes = find_shapes(picture)
        without_sizes = tuple(Phrase(phrase.kind, phrase.colour, None) for phrase in claim.phrases)
        right += is_true(Claim(without_sizes, claim.relation), shapes)
        sized += is_true(claim, shapes)
    return Alignment(len(prompts), right, sized)
