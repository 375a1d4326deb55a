"""The world's language: captions from scenes with varied wording, and back from captions to what they claim."""

import math
import re
from itertools import permutations

import numpy as np

from data.world.scene import COLOURS, Claim, Phrase, Scene, Shape, holds

KIND_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "plus sign"),
    "star": ("star",),
    "ring": ("ring", "hoop"),
}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge"),
}
RELATION_WORDS = {
    "left of": ("to the left of", "left of", "on the left of"),
    "above": ("above", "over", "higher than"),
    "inside": ("inside", "within", "in the middle of"),
}
REVERSED_WORDS = {
    "left of": ("to the right of", "right of", "on the right of"),
    "above": ("below", "under", "beneath"),
    "inside": ("around", "surrounding", "containing"),
}
OPENINGS = ("", "", "", "a picture of ", "a drawing of ", "there is ", "an image showing ", "we can see ")

FOREIGN = (  # no model has read them: train.py has sentences of its own
    "ein kleiner grüner stern links von einem mittelgroßen orangen dreieck",
    "trois formes colorées sur un fond clair, dont une étoile rouge",
    "una estrella negra pequeña dentro de un anillo amarillo",
    "большая жёлтая звезда над маленьким зелёным кругом",
    "en liten blå trekant under en stor röd ruta",
    "青い 三角形 の 左 に 小さな 緑色 の 星",
    "mali crveni krug iznad velikog plavog kvadrata",
    "een grote paarse cirkel naast een klein oranje vierkant",
    "büyük kırmızı dairenin içinde küçük mavi bir yıldız",
    "um pequeno quadrado roxo dentro de um círculo preto",
)

_kinds = {word: kind for kind, words in KIND_WORDS.items() for word in words}
_sizes = {word: size for size, words in SIZE_WORDS.items() for word in words}
_relations = {word: (name, False) for name, words in RELATION_WORDS.items() for word in words} | {
    word: (name, True) for name, words in REVERSED_WORDS.items() for word in words
}


def _any(words: list[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


PHRASE = re.compile(
    rf"\b(?:(?:a|an|one|the) )?(?:({_any(list(_sizes))}) )?({'|'.join(COLOURS)}) ({_any(list(_kinds))})\b"
)
RELATION = re.compile(rf"\b({_any(list(_relations))})\b")
FILLERS = {*" ".join(OPENINGS).split(), *["and", "with", "is", "are", "on", "in", "the", "an", ",", "."]}


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption of a scene: all its shapes, and the relation of the first two."""
    phrases = [_phrase(rng, shape.kind, shape.colour, shape.size) for shape in scene.shapes]
    text = phrases[0]
    if len(phrases) > 1:
        a, b = scene.shapes[:2]
        relation = next(name for name in RELATION_WORDS if holds(name, a, b))
        if rng.random() < 0.5:
            text = f"{phrases[0]} {rng.choice(RELATION_WORDS[relation])} {phrases[1]}"
        else:
            text = f"{phrases[1]} {rng.choice(REVERSED_WORDS[relation])} {phrases[0]}"
    if len(phrases) > 2:
        text += f" {rng.choice([', and', 'and', 'with'])} {phrases[2]}".replace(" ,", ",")
    return f"{rng.choice(OPENINGS)}{text}"


def plain_caption(scene: Scene) -> str:
    """The same words for the same picture: every shape in full, and the relation of the two that show it most clearly.

    Nothing in it is chosen, so that it can be told from the pixels.
    """
    first, *rest = sorted(scene.shapes, key=lambda shape: (shape.x, shape.y))
    told = _plain(first)
    if rest:
        pairs = permutations(scene.shapes, 2)
        related = [(name, a, b) for a, b in pairs for name in RELATION_WORDS if holds(name, a, b)]
        relation, first, other = max(related, key=lambda one: _clarity(*one))
        told = f"{_plain(first)} {RELATION_WORDS[relation][0]} {_plain(other)}"
        rest = [shape for shape in scene.shapes if shape not in (first, other)]
    return " and ".join([told, *map(_plain, rest)])


def _plain(shape: Shape) -> str:
    return with_article(f"{shape.size} {shape.colour} {shape.kind}")


def _clarity(relation: str, a: Shape, b: Shape) -> float:
    """How far the way from one to the other is from a diagonal, in pixels; being inside is clearer than any."""
    return math.inf if relation == "inside" else abs(abs(b.x - a.x) - abs(b.y - a.y))


def _phrase(rng: np.random.Generator, kind: str, colour: str, size: str) -> str:
    words = [colour, str(rng.choice(KIND_WORDS[kind]))]
    if rng.random() < 0.75:
        words.insert(0, str(rng.choice(SIZE_WORDS[size])))
    return with_article(" ".join(words))


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def claim_of(caption: str) -> Claim | None:
    """What a caption claims, or None if any word of it is not of this language."""
    text = caption.lower()
    found = list(PHRASE.finditer(text))
    if not 1 <= len(found) <= 3:
        return None
    phrases = [Phrase(_kinds[m[3]], m[2], _sizes.get(m[1]) if m[1] else None) for m in found]
    relation, rest = None, PHRASE.sub(" ", text)
    if len(found) > 1:
        between = RELATION.search(text[found[0].end() : found[1].start()])
        if between is not None:
            relation, reverse = _relations[between[1]]
            if reverse:
                phrases[:2] = phrases[1::-1]
            rest = rest.replace(between[1], " ", 1)
    if not FILLERS.issuperset(re.findall(r"[^\s,.]+|[,.]", rest)):
        return None
    return Claim(tuple(phrases), relation)


def gibberish(rng: np.random.Generator) -> str:
    """Words of no language."""
    letters = list("abcdefghijklmnopqrstuvwxyz")
    return " ".join("".join(rng.choice(letters, rng.integers(3, 9))) for _ in range(rng.integers(4, 9)))
