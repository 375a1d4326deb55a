"""Suites: the prompts that a model is asked for, by category, some with questions by which a picture can be checked.

`shapes` is built in. A file is ours (prompt, category, challenge, checks) or a published one, known by its columns:
DrawBench and PartiPrompts (CSV, TSV), GenEval's metadata (JSON lines), T2I-CompBench (a folder, one .txt a category).
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
SPLITS = ("_train", "_val", "_test")  # of T2I-CompBench's files
COUNTED = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Check:
    """A question to the picture, and the answer that it has if it shows what the prompt says."""

    question: str
    answer: str = "yes"


@dataclass(frozen=True)
class Prompt:
    text: str
    category: str = ""
    challenge: str = ""
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Suite:
    name: str
    prompts: tuple[Prompt, ...]

    @property
    def id(self) -> str:
        """Changes with whatever is asked."""
        return hashlib.sha256(repr(self.prompts).encode()).hexdigest()[:12]

    @property
    def categories(self) -> Counter[str]:
        return Counter(prompt.category for prompt in self.prompts)


def load_suite(name: str) -> Suite:
    if name == SHAPES:
        return Suite(SHAPES, tuple(Prompt(text, category) for category, text in shapes_prompts()))
    path = Path(name)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files or not path.exists():
        raise SuiteError(f"suite {name} is neither {SHAPES!r} nor a file or folder of prompts here")
    if wrong := next((file for file in files if file.suffix not in SUFFIXES), None):
        raise SuiteError(f"suite {wrong} is of no known form: it must end in {', '.join(SUFFIXES)}")
    prompts = tuple(prompt for file in files for prompt in _read(file))
    if not prompts:
        raise SuiteError(f"suite {name} has no prompt")
    return Suite(path.stem, prompts)


def _read(file: Path) -> Iterator[Prompt]:
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
    for line, row in _rows(file, text):
        yield _prompt(row, f"{file}, line {line}")


def _rows(file: Path, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    if file.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SuiteError(f"{file}, line {number} is no JSON: {error.msg}") from None
            if not isinstance(row, dict):
                raise SuiteError(f"{file}, line {number} is no JSON object")
            yield number, row
        return
    reader = csv.DictReader(text.splitlines(), delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise SuiteError(f"{file}, line {reader.line_num} has not as many fields as the header")
            yield reader.line_num, row
    except csv.Error as error:
        raise SuiteError(f"{file}, line {reader.reader.line_num} can't be read: {error}") from None


def _prompt(row: dict[str, Any], where: str) -> Prompt:
    named = {str(name).strip().lower(): value for name, value in row.items()}
    found = {mine: next((named[name] for name in names if name in named), "") for mine, names in COLUMNS.items()}
    text = found["prompt"]
    if not isinstance(text, str) or not text.strip():
        there = ", ".join(named) or "none"
        raise SuiteError(f"{where} has no prompt: a column `prompt` is expected, there are {there}")
    checks = _own_checks(named["checks"], where) if named.get("checks") else _geneval_checks(named, where)
    return Prompt(text.strip(), str(found["category"] or ""), str(found["challenge"] or ""), checks)


def _own_checks(said: Any, where: str) -> tuple[Check, ...]:
    """`[{"question": "Is there a cat?", "answer": "yes"}]`, in a CSV as JSON text."""
    try:
        asked = json.loads(said) if isinstance(said, str) else said
        return tuple(Check(str(one["question"]), str(one.get("answer", "yes"))) for one in asked)
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError):
        raise SuiteError(f"{where}: checks is a JSON list of objects with question and answer") from None


def _geneval_checks(row: dict[str, Any], where: str) -> tuple[Check, ...]:
    """GenEval names objects with their counts, colours and places; as questions (arXiv 2310.11513)."""
    objects = row.get("include") or []
    try:
        names = [f"{one['color']} {one['class']}" if "color" in one else str(one["class"]) for one in objects]
        checks = []
        for one, name in zip(objects, names, strict=True):
            if one.get("count", 1) > 1:
                count = one["count"]
                answer = COUNTED[count - 1] if count <= len(COUNTED) else str(count)
                checks.append(Check(f"How many {one['class']}s are in the picture?", answer))
            else:
                checks.append(Check(f"Is there a {name} in the picture?"))
            if "position" in one:
                relation, other = one["position"]
                checks.append(Check(f"Is the {name} {relation} the {names[other]}?"))
    except (KeyError, TypeError, IndexError, ValueError):
        raise SuiteError(f"{where}: include is a list of objects with class and count, as GenEval has it") from None
    return tuple(checks)
