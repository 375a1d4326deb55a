"""Rules on names and on tests, which `make house` checks beside the rules on folders.

A name says what the thing is: no variable or argument is called `found`, `one`, `said`, `asked`, `told` or `there`
(fields are left out: some are keys of the JSON that commands print). A test has at most six asserts. A fixture's name
is defined once.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("data", "flows", "imagen")
CHECKED = (*ROOMS, "tests")
FROZEN = {"make_release.py", "release_answers.py", "fingerprints.py", "my_scorers.py"}  # the code of release 0.1.0
VAGUE = {"found", "one", "said", "asked", "told", "there"}
MOST_ASSERTS = 6


def broken_habits() -> list[str]:
    broken = []
    fixtures: dict[str, list[str]] = defaultdict(list)
    for room in CHECKED:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.name in FROZEN:
                continue
            tree, place = ast.parse(path.read_text()), str(path.relative_to(ROOT))
            broken += [f"{place}:{line} binds `{name}`" for name, line in bound_names(tree) if name in VAGUE]
            if room == "tests":
                broken += [f"{place}: {name} has {count} asserts" for name, count in long_tests(tree)]
                for name in fixture_names(tree):
                    fixtures[name].append(place)
    broken += [
        f"the fixture {name} is defined in {', '.join(places)}" for name, places in fixtures.items() if places[1:]
    ]
    return broken


def bound_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Variables and arguments, with their lines."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    fields = {id(item.target) for node in classes for item in node.body if isinstance(item, ast.AnnAssign)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in fields:
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def long_tests(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            asserts = sum(isinstance(inner, ast.Assert) for inner in ast.walk(node))
            if asserts > MOST_ASSERTS:
                yield node.name, asserts


def fixture_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any("pytest.fixture" in ast.unparse(d) for d in node.decorator_list):
            yield node.name
