"""Draw sentences of the docstrings and of the documentation, to be judged by somebody who does not know the project.

    python -m tests.sentences --seed 13 --count 10

Each is printed with its file and with the sentence before it, in a paragraph. Code blocks, tables, headings, the
generated docs/cli.md and the figures of docs/log.md do not count.
"""

import argparse
import ast
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.habits import ROOMS, ROOT

NOT_PROSE = re.compile(r"```.*?```|^[ \t]*[|#>].*?$|^ {4,}.*?$", re.MULTILINE | re.DOTALL)
LEFT_OUT = {"cli.md", "log.md"}
FEWEST_WORDS = 5


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text


def pages() -> Iterator[Path]:
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]:
        if path.name not in LEFT_OUT:
            yield path


def sentences(text: str) -> Iterator[tuple[str, str]]:
    """Each sentence of a text, with the one before it in its paragraph."""
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", NOT_PROSE.sub("", text)):
        parts = re.split(r"(?<=[.!?])\s+(?=[A-Z`*\[])", " ".join(paragraph.split()))
        for before, sentence in zip(["", *parts], parts, strict=False):
            if len(sentence.split()) >= FEWEST_WORDS:
                yield before, sentence


def all_sentences() -> Iterator[tuple[str, str, str]]:
    """File, sentence before and sentence."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for text in docstrings(path):
                yield from ((str(path.relative_to(ROOT)), *pair) for pair in sentences(text))
    for path in pages():
        yield from ((str(path.relative_to(ROOT)), *pair) for pair in sentences(path.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sentences")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=10)
    arguments = parser.parse_args()
    drawn = random.Random(arguments.seed).sample(list(all_sentences()), arguments.count)
    for number, (file, before, sentence) in enumerate(drawn, 1):
        context = f"   ({before})\n" if before else ""
        sys.stdout.write(f"{number}. {file}\n{context}   {sentence}\n")


if __name__ == "__main__":
    main()
