"""Scripts that tests and benchmarks have as texts, which no type checker reads, import what exists."""

import ast
import importlib
from collections.abc import Iterator
from textwrap import dedent

import pytest

from tests.habits import ROOT

RELEASE = ROOT / "tests" / "release"  # whose scripts are meant for older code
OWN = ("data", "flows", "imagen", "tests")


def scripts() -> Iterator[tuple[str, ast.Module]]:
    """The texts below tests/ that are Python and import something of this project, with their places."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.is_relative_to(RELEASE):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
                try:
                    script = ast.parse(dedent(node.value))
                except SyntaxError:
                    continue  # prose, or a template
                if any(own_imports(script)):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", script


def own_imports(script: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Modules of this project that a script imports, with a name to import from it if there is one."""
    for node in ast.walk(script):
        if isinstance(node, ast.Import):
            yield from ((name.name, None) for name in node.names if name.name.partition(".")[0] in OWN)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OWN:
            yield from ((str(node.module), name.name) for name in node.names)


def exists(module: str, name: str | None) -> bool:
    path = ROOT.joinpath(*module.split("."))
    if not path.is_dir() and not path.with_suffix(".py").exists():
        return False
    return name is None or (path / f"{name}.py").exists() or hasattr(importlib.import_module(module), name)


@pytest.mark.slow  # some of the modules load torch and Prefect
@pytest.mark.parametrize(("place", "script"), list(scripts()), ids=[place for place, _ in scripts()])
def test_a_script_imports_what_exists(place: str, script: ast.Module) -> None:
    missing = [f"{module}: {name}" for module, name in own_imports(script) if not exists(module, name)]
    assert not missing
