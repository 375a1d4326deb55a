"""Does the test suite notice a broken line? Break some, one at a time, and run the tests.

    python -m tests.mutations draw --seed 13 > places.jsonl    places drawn at random, each a comparison or a line
    python -m tests.mutations run places.jsonl                 which test notices each of them

`draw` chooses among the comparisons (turned: `<` becomes `>=`) and the statements of one line inside functions
(dropped: `pass` stands in its place). `run` breaks a copy of the committed tree, never the tree itself: it runs the
tests of the broken file's folder first, then those of its room, then all others, and stops at the first failure. It
prints one line a place and ends with exit code 1 if a place went unnoticed. `--tree` runs another checkout, with an
environment of its own.
"""

import argparse
import ast
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.habits import ROOMS, ROOT

TURNED = {
    ast.Lt: ">=",
    ast.LtE: ">",
    ast.Gt: "<=",
    ast.GtE: "<",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
DROPPED = (ast.Assign, ast.AugAssign, ast.Expr, ast.Delete, ast.Raise)
PYTEST = ["-x", "-q", "-n", "3", "--dist", "loadfile", "-m", "not nightly", "-p", "no:cacheprovider"]
PASSED, FAILED, STOPPED, NO_TESTS = 0, 1, 2, 5  # exit codes of pytest; STOPPED after a failure, in several processes


@dataclass(frozen=True)
class Place:
    """A line of a file, and what it becomes. `tests` are folders to run first."""

    file: str
    line: int
    old: str
    new: str
    tests: list[str]

    def mutate(self, tree: Path) -> None:
        path = tree / self.file
        lines = path.read_text().split("\n")
        if lines[self.line - 1] != self.old:
            raise SystemExit(f"{self.file}:{self.line} is not the line that was drawn: {lines[self.line - 1].strip()}")
        lines[self.line - 1] = self.new
        path.write_text("\n".join(lines))


def nearest_tests(file: str) -> str:
    """The folder of tests that mirrors a file's own, or the nearest above it."""
    folder = Path("tests", file).parent
    while not (ROOT / folder).is_dir():
        folder = folder.parent
    return str(folder)


def within_functions(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield from (inner for statement in node.body for inner in ast.walk(statement))


def mutations(file: str) -> Iterator[tuple[str, Place]]:
    """Every place of a file that can be broken, with its kind."""
    text = (ROOT / file).read_text()
    lines, seen = text.split("\n"), set()
    for node in within_functions(ast.parse(text)):
        if not isinstance(node, (ast.Compare, *DROPPED)) or node.lineno != node.end_lineno:
            continue
        old = lines[node.lineno - 1]
        if isinstance(node, ast.Compare):
            kind, new = "comparison", turned(node, old)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        else:
            kind, new = "line", old[: node.col_offset] + "pass"
        place = Place(file, node.lineno, old, new, [nearest_tests(file)])
        broken = [*lines[: node.lineno - 1], new, *lines[node.lineno :]]
        if new != old and (kind, node.lineno, new) not in seen and is_valid(broken):
            seen.add((kind, node.lineno, new))
            yield kind, place


def is_valid(lines: list[str]) -> bool:
    try:
        ast.parse("\n".join(lines))
    except SyntaxError:
        return False
    return True


def turned(node: ast.Compare, line: str) -> str:
    """The line with the first operator of a comparison turned; columns are of its bytes."""
    encoded = line.encode()
    start, end = node.left.end_col_offset or 0, node.comparators[0].col_offset
    between = encoded[start:end].decode()
    operator = TURNED[type(node.ops[0])]
    between = re.sub(r"[<>=!]=?|\bnot\s+in\b|\bin\b|\bis\s+not\b|\bis\b", operator, between, count=1)
    return (encoded[:start] + between.encode() + encoded[end:]).decode()


def draw(seed: int, count: int) -> list[Place]:
    places: dict[str, list[Place]] = {"comparison": [], "line": []}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for kind, place in mutations(str(path.relative_to(ROOT))):
                places[kind].append(place)
    chosen = random.Random(seed)
    return [chosen.choice(places[chosen.choice(sorted(places))]) for _ in range(count)]


def run_tests(tree: Path, python: Path, words: list[str]) -> str | None:
    """The first test that fails, or None if none does or if there is none."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    command = [str(python), "-m", "pytest", *PYTEST, *words]
    output = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if output.returncode in (PASSED, NO_TESTS):
        return None
    failures = re.findall(r"^(?:FAILED|ERROR) (\S+)", output.stdout, re.MULTILINE)
    if output.returncode not in (FAILED, STOPPED) or not failures:
        raise SystemExit(
            f"pytest ended with exit code {output.returncode}: {output.stdout[-500:]}{output.stderr[-500:]}"
        )
    return str(failures[0]).partition("[")[0]


def noticed_by(place: Place, tree: Path) -> str | None:
    """The test that fails with the place broken, and passes without."""
    python = tree / ".venv" / "bin" / "python"
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder, "tree")
        subprocess.run(["git", "clone", "--quiet", "--local", str(tree), str(copy)], check=True)
        if missing := [name for name in place.tests if not (copy / name).exists()]:
            raise SystemExit(f"{tree} has no {missing[0]} in its last commit")
        place.mutate(copy)
        room = f"tests/{place.file.partition('/')[0]}"
        done: list[str] = []
        for folders in (place.tests, [room], ["tests"]):  # from the nearest to all others
            test = run_tests(copy, python, [*folders, *(f"--ignore={folder}" for folder in done)])
            if test is not None:
                subprocess.run(["git", "checkout", "--quiet", "--", place.file], cwd=copy, check=True)
                if run_tests(copy, python, [test]) is not None:
                    raise SystemExit(f"{test} fails on the unbroken tree, too")
                return test
            done += folders
    return None


def run(places: list[Place], tree: Path) -> int:
    unnoticed = 0
    for number, place in enumerate(places, 1):
        test = noticed_by(place, tree)
        unnoticed += test is None
        sys.stdout.write(f"{number}. {place.file}:{place.line}  {place.old.strip()}  ->  {place.new.strip()}\n")
        sys.stdout.write(f"   {test or 'NOT NOTICED'}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(places) - unnoticed} of {len(places)} noticed\n")
    return 1 if unnoticed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations")
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="print places, one JSON object a line")
    drawing.add_argument("--seed", type=int, required=True)
    drawing.add_argument("--places", type=int, default=10)
    running = commands.add_parser("run", help="break each place in turn and run the tests")
    running.add_argument("file", type=argparse.FileType(), help="what draw printed")
    running.add_argument("--tree", type=Path, default=ROOT, help="a checkout with its own .venv (default: this one)")
    arguments = parser.parse_args()
    if arguments.command == "draw":
        for place in draw(arguments.seed, arguments.places):
            sys.stdout.write(json.dumps(asdict(place)) + "\n")
        return 0
    return run([Place(**json.loads(line)) for line in arguments.file], arguments.tree.resolve())


if __name__ == "__main__":
    sys.exit(main())
