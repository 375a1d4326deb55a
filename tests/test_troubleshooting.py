"""The messages in docs/troubleshooting.md are those that the program prints."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
FENCES = re.compile(r"^```text\n(.*?)^```", flags=re.M | re.S)
TEXTS = (ast.JoinedStr, ast.Constant)
SPOKEN = 12  # letters of a text that identifies a message


def read_patterns() -> list["re.Pattern[str]"]:
    """Every text of the program, with any words in the place of what it fills in."""
    patterns = []
    for file in (file for room in ("data", "imagen", "flows") for file in (ROOT / room).rglob("*.py")):
        texts = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, TEXTS))
        patterns += [pattern for node in texts if (pattern := pattern_of(node))]
    return patterns


def pattern_of(node: ast.AST) -> "re.Pattern[str] | None":
    """A text, or one with values in it, as what matches all that it can become."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    fixed = [part.value if isinstance(part, ast.Constant) else None for part in parts]
    letters = sum(len(text) for text in fixed if isinstance(text, str))
    if letters < SPOKEN or any(not isinstance(text, str | None) for text in fixed):
        return None
    return re.compile("".join(".*" if text is None else re.escape(text) for text in fixed))


def messages() -> list[str]:
    return [line for fence in FENCES.findall(PAGE.read_text()) for line in fence.splitlines()]


@pytest.fixture(scope="module")
def patterns() -> list["re.Pattern[str]"]:
    return read_patterns()


def test_the_page_has_messages() -> None:
    assert len(messages()) > 40


@pytest.mark.parametrize("message", messages(), ids=[message[:60] for message in messages()])
def test_every_message_is_one_that_the_program_prints(message: str, patterns: list["re.Pattern[str]"]) -> None:
    assert any(pattern.fullmatch(message) for pattern in patterns), f"nothing in the program says: {message}"
