"""Suites of prompts for evaluating a model. Prompts have a category; some have questions that check a picture.

The suite `shapes` is built in. A file has our columns (prompt, category, challenge, checks) or those of a published
suite: DrawBench and PartiPrompts (CSV, TSV), GenEval's metadata (JSON lines), T2I-CompBench (a folder of .txt files,
one for each category).
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.world.prompts import shapes_prompts
from imagen.errors import SuiteError

SHAPES = "shapes"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt")
COLUMNS = {
    "prompt": ("prompt", "prompts", "text"),
    "category": ("category", "categories", "tag"),
    "challenge": ("challenge",),
}
SPLITS = ("_train", "_val", "_test")  # endings of T2I-CompBench's file names
NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Check:
    """A question about a picture, and its answer if the picture shows what the prompt describes."""

    question: str
    answer: str = "yes"


@dataclass(frozen=True)
class Prompt:
    """A prompt with its category, the challenge that it poses (as in PartiPrompts), and its checks."""

    text: str
    category: str = ""
    challenge: str = ""
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Suite:
    """A named list of prompts."""

    name: str
    prompts: tuple[Prompt, ...]

    @property
    def id(self) -> str:
        """A digest of the prompts and their checks.

        It is stored and includes names of classes and fields, so keep those.
        """
        return hashlib.sha256(repr(self.prompts).encode()).hexdigest()[:12]

    @property
    def categories(self) -> Counter[str]:
        """The number of prompts in each category, in the order of the prompts."""
        return Counter(prompt.category for prompt in self.prompts)


def load_suite(name: str) -> Suite:
    """Load the built-in suite, or one from a file or folder.

    Args:
        name: `shapes`, or the path of a .csv, .tsv, .jsonl or .txt file, or of a folder of .txt files.

    Raises:
        SuiteError: there is no such suite, or it can't be read.

    Example:
        >>> load_suite("shapes").prompts[0].category
        'one shape'
    """
    if name == SHAPES:
        return Suite(SHAPES, tuple(Prompt(text, category) for category, text in shapes_prompts()))
    path = Path(name)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files or not path.exists():
        raise SuiteError(f"suite {name} is neither {SHAPES!r} nor a file or folder of prompts here")
    for file in files:
        if file.suffix not in SUFFIXES:
            raise SuiteError(f"suite {file} has an unknown format: its name must end in {', '.join(SUFFIXES)}")
    prompts = tuple(prompt for file in files for prompt in _read_prompts(file))
    if not prompts:
        raise SuiteError(f"suite {name} has no prompt")
    return Suite(path.stem, prompts)


def _read_prompts(file: Path) -> Iterator[Prompt]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"suite {file} can't be read: {error}") from None
    if file.suffix == ".txt":
        category = file.stem
        for split in SPLITS:
            category = category.removesuffix(split)
        yield from (Prompt(line.strip(), category) for line in text.splitlines() if line.strip())
        return
    for line, row in _read_rows(file, text):
        yield _parse_prompt(row, f"{file}, line {line}")


def _read_rows(file: Path, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    """Yield the rows of a CSV, TSV or JSON lines file, with their line numbers."""
    if file.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SuiteError(f"{file}, line {number} is not JSON: {error.msg}") from None
            if not isinstance(row, dict):
                raise SuiteError(f"{file}, line {number} is not a JSON object")
            yield number, row
        return
    reader = csv.DictReader(text.splitlines(), delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise SuiteError(f"{file}, line {reader.line_num} does not have as many fields as the header")
            yield reader.line_num, row
    except csv.Error as error:
        raise SuiteError(f"{file}, line {reader.reader.line_num} can't be read: {error}") from None


def _parse_prompt(row: dict[str, Any], where: str) -> Prompt:
    """Convert a row to a prompt; `where` names the row in errors."""
    values = {str(column).strip().lower(): value for column, value in row.items()}
    text, category, challenge = (_first_value(values, names) for names in COLUMNS.values())
    if not isinstance(text, str) or not text.strip():
        columns = ", ".join(values) or "none"
        raise SuiteError(f"{where} has no prompt: a column `prompt` is expected, there are {columns}")
    checks = _parse_checks(values["checks"], where) if values.get("checks") else _parse_geneval_checks(values, where)
    return Prompt(text.strip(), str(category or ""), str(challenge or ""), checks)


def _first_value(values: dict[str, Any], names: Iterable[str]) -> Any:
    """Return the value of the first of these columns that the row has; empty if it has none."""
    for name in names:
        if name in values:
            return values[name]
    return ""


def _parse_checks(value: Any, where: str) -> tuple[Check, ...]:
    """Parse checks such as `[{"question": "Is there a cat?", "answer": "yes"}]`. In a CSV file they are JSON text."""
    try:
        items = json.loads(value) if isinstance(value, str) else value
        return tuple(Check(str(item["question"]), str(item.get("answer", "yes"))) for item in items)
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError):
        raise SuiteError(f"{where}: checks is a JSON list of objects with question and answer") from None


def _parse_geneval_checks(row: dict[str, Any], where: str) -> tuple[Check, ...]:
    """Convert GenEval's objects, with their counts, colours and positions, to questions (arXiv 2310.11513)."""
    objects = row.get("include") or []
    try:
        names = [f"{item['color']} {item['class']}" if "color" in item else str(item["class"]) for item in objects]
        checks = []
        for item, name in zip(objects, names, strict=True):
            if item.get("count", 1) > 1:
                count = item["count"]
                answer = NUMBER_WORDS[count - 1] if count <= len(NUMBER_WORDS) else str(count)
                checks.append(Check(f"How many {item['class']}s are in the picture?", answer))
            else:
                checks.append(Check(f"Is there a {name} in the picture?"))
            if "position" in item:
                relation, other = item["position"]
                checks.append(Check(f"Is the {name} {relation} the {names[other]}?"))
    except (KeyError, TypeError, IndexError, ValueError):
        raise SuiteError(f"{where}: include is a list of objects with class and count, as GenEval has it") from None
    return tuple(checks)
