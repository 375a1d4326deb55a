"""The language of the built-in world: writes captions of scenes in varied wording, and parses captions to claims."""

import math
import re
from itertools import permutations

import numpy as np

from data.world.scene import COLOURS, Claim, Phrase, Scene, Shape, relation_holds

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

FOREIGN = (  # the models are trained on other foreign sentences, in train.py
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

_KIND_OF = {word: kind for kind, words in KIND_WORDS.items() for word in words}
_SIZE_OF = {word: size for size, words in SIZE_WORDS.items() for word in words}
# Word → relation, and whether it is reversed: "a right of b" is "b left of a".
_RELATION_OF = {word: (name, False) for name, words in RELATION_WORDS.items() for word in words} | {
    word: (name, True) for name, words in REVERSED_WORDS.items() for word in words
}


def _alternatives(words: list[str]) -> str:
    """Return a regular expression that matches any of some words. Longer words are tried first."""
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_SIZES, _KINDS = _alternatives(list(_SIZE_OF)), _alternatives(list(_KIND_OF))
PHRASE = re.compile(rf"\b(?:(?:a|an|one|the) )?(?:({_SIZES}) )?({'|'.join(COLOURS)}) ({_KINDS})\b")
RELATION = re.compile(rf"\b({_alternatives(list(_RELATION_OF))})\b")
FILLERS = {*" ".join(OPENINGS).split(), *["and", "with", "is", "are", "on", "in", "the", "an", ",", "."]}


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    """Write a true caption in random wording. It names all shapes in a scene and the relation between the first two."""
    phrases = [_random_phrase(rng, shape.kind, shape.colour, shape.size) for shape in scene.shapes]
    text = phrases[0]
    if len(phrases) > 1:
        a, b = scene.shapes[:2]
        relation = next(name for name in RELATION_WORDS if relation_holds(name, a, b))
        if rng.random() < 0.5:
            text = f"{phrases[0]} {rng.choice(RELATION_WORDS[relation])} {phrases[1]}"
        else:
            text = f"{phrases[1]} {rng.choice(REVERSED_WORDS[relation])} {phrases[0]}"
    if len(phrases) > 2:
        text += f" {rng.choice([', and', 'and', 'with'])} {phrases[2]}".replace(" ,", ",")
    return f"{rng.choice(OPENINGS)}{text}"


def plain_caption(scene: Scene) -> str:
    """Write the caption of a scene in fixed wording. It describes every shape in full, and the clearest relation.

    This caption can be derived from the picture alone, so a captioner can learn to write it.
    """
    first, *rest = sorted(scene.shapes, key=lambda shape: (shape.x, shape.y))
    caption = _plain_phrase(first)
    if rest:
        relations = [
            (name, a, b)
            for a, b in permutations(scene.shapes, 2)
            for name in RELATION_WORDS
            if relation_holds(name, a, b)
        ]
        relation, first, other = max(relations, key=lambda item: _clarity(*item))
        caption = f"{_plain_phrase(first)} {RELATION_WORDS[relation][0]} {_plain_phrase(other)}"
        rest = [shape for shape in scene.shapes if shape not in (first, other)]
    return " and ".join([caption, *map(_plain_phrase, rest)])


def _plain_phrase(shape: Shape) -> str:
    return with_article(f"{shape.size} {shape.colour} {shape.kind}")


def _clarity(relation: str, a: Shape, b: Shape) -> float:
    """Measure how clear a relation is. A direction is clearer the farther it is from the diagonal, in pixels.

    The relation `inside` is always the clearest.
    """
    return math.inf if relation == "inside" else abs(abs(b.x - a.x) - abs(b.y - a.y))


def _random_phrase(rng: np.random.Generator, kind: str, colour: str, size: str) -> str:
    """Describe a shape in random words. One in four descriptions leaves out the size."""
    words = [colour, str(rng.choice(KIND_WORDS[kind]))]
    if rng.random() < 0.75:
        words.insert(0, str(rng.choice(SIZE_WORDS[size])))
    return with_article(" ".join(words))


def with_article(words: str) -> str:
    """Put "a" or "an" before the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def claim_of(caption: str) -> Claim | None:
    """Parse a caption to its claim.

    Returns None if the caption has a word that is not in this language, or no shape, or more than three shapes.

    Example:
        >>> claim_of("a small red circle above a blue box")
        Claim(phrases=(Phrase(kind='circle', colour='red', size='small'),
              Phrase(kind='square', colour='blue', size=None)), relation='above')
    """
    text = caption.lower()
    matches = list(PHRASE.finditer(text))
    if not 1 <= len(matches) <= 3:
        return None
    phrases = [Phrase(_KIND_OF[m[3]], m[2], _SIZE_OF.get(m[1]) if m[1] else None) for m in matches]
    relation, rest = None, PHRASE.sub(" ", text)
    if len(matches) > 1:
        between = RELATION.search(text[matches[0].end() : matches[1].start()])
        if between is not None:
            relation, is_reversed = _RELATION_OF[between[1]]
            if is_reversed:
                phrases[:2] = phrases[1::-1]
            rest = rest.replace(between[1], " ", 1)
    if not FILLERS.issuperset(re.findall(r"[^\s,.]+|[,.]", rest)):
        return None
    return Claim(tuple(phrases), relation)


def gibberish(rng: np.random.Generator) -> str:
    """Make words from random letters."""
    letters = list("abcdefghijklmnopqrstuvwxyz")
    return " ".join("".join(rng.choice(letters, rng.integers(3, 9))) for _ in range(rng.integers(4, 9)))
