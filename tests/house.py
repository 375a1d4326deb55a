"""Print the house: every folder with its files and lines, and the imports between folders (`make house`).

    python -m tests.house                 the drawing, and the rules that it breaks
    python -m tests.house --rules         the rules that it breaks alone, as `make lint` asks
    python -m tests.house --imports data/lake   which files a folder or a file imports, directly or not

The imports are read from the source: also those inside functions, which run later, but not those for type checkers
alone. Exit code 1 if a rule is broken: no circle between folders or between files, at most 12 files in a folder
beside its `__init__.py`, under 350 lines in a file, and the rules of `tests/habits.py` on names and tests. A circle
counts only over imports at the top of a file; one that a function defers is legal.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

from tests.habits import ROOMS, ROOT, broken_habits

MOST_FILES = 12
MOST_LINES = 349

Graph = dict[str, set[str]]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(module: str, packages: set[str]) -> str:
    """The folder of a module. A module that lies in a room itself, such as data.errors, stands alone."""
    folder = module.rpartition(".")[0]
    return module if module in packages or folder in ROOMS else folder


def top_level(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes that run when a module is imported, less those that only a type checker reads."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if is_for_type_checkers(node):
            yield from top_level(node.orelse)
            continue
        yield node
        yield from top_level(ast.iter_child_nodes(node))


def exported(tree: ast.Module) -> dict[str, str]:
    """The public names of a package that it imports when they are first used, with their modules (data/lazy.py)."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "exports")
    keywords = (keyword for call in calls for keyword in call.keywords)
    return {k.arg: str(k.value.value) for k in keywords if k.arg and isinstance(k.value, ast.Constant)}


def imported(nodes: Iterable[ast.AST], modules: set[str], public: dict[str, dict[str, str]]) -> set[str]:
    """The modules that some nodes import; `public` has the modules of each package's public names."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names} & modules
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            exports = public.get(node.module, {})
            inside = {exports.get(name.name, f"{node.module}.{name.name}") for name in node.names}
            names |= inside & modules or {node.module}
    return names


def is_for_type_checkers(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def type_checking_only(tree: ast.Module) -> set[int]:
    return {id(inner) for node in ast.walk(tree) if is_for_type_checkers(node) for inner in ast.walk(node)}


def read_house(rooms: Iterable[str] = ROOMS) -> tuple[dict[str, Path], Graph, Graph]:
    """Modules by name, what each imports when it is loaded, and what it imports at any time."""
    files = {module_of(path): path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))}
    modules = set(files)
    trees = {module: ast.parse(path.read_text()) for module, path in files.items()}
    public = {module: exported(tree) for module, tree in trees.items()}
    at_load: Graph = {}
    at_any_time: Graph = {}
    for module, tree in trees.items():
        skipped = type_checking_only(tree)
        nodes = (node for node in ast.walk(tree) if id(node) not in skipped)
        at_load[module] = imported(top_level(tree.body), modules, public) - {module}
        at_any_time[module] = imported(nodes, modules, public) - {module}
    return files, at_load, at_any_time


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components of more than one node)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    sys.setrecursionlimit(10_000)
    for node in sorted(graph):
        if node not in index:
            visit(node)
    return groups


def reachable(graph: Graph, starts: Iterable[str]) -> set[str]:
    reached: set[str] = set()
    waiting = list(starts)
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += graph[module]
    return reached


def broken_rules(files: dict[str, Path], folders: dict[str, list[str]], arrows: Graph, at_load: Graph) -> list[str]:
    counts = {folder: sum(files[module].name != "__init__.py" for module in own) for folder, own in folders.items()}
    broken = [f"{folder} has {count} files" for folder, count in counts.items() if count > MOST_FILES]
    for module, path in files.items():
        lines = len(path.read_text().splitlines())
        if lines > MOST_LINES:
            broken.append(f"{module} has {lines} lines")
    broken += [f"circle between folders: {', '.join(group)}" for group in circles(arrows)]
    broken += [f"circle between files: {', '.join(group)}" for group in circles(at_load)]
    return broken


def print_house(drawing: bool) -> int:
    files, at_load, at_any_time = read_house()
    packages = {module for module, path in files.items() if path.name == "__init__.py"}
    folders: dict[str, list[str]] = defaultdict(list)
    arrows: Graph = defaultdict(set)
    for module in files:
        folder = folder_of(module, packages)
        folders[folder].append(module)
        for other in at_any_time[module]:
            target = folder_of(other, packages)
            if target != folder:
                arrows[folder].add(target)
    if drawing:
        print_drawing(files, packages, folders, arrows)
    broken = broken_rules(files, folders, arrows, at_load) + broken_habits()
    for rule in broken:
        sys.stdout.write(f"BROKEN: {rule}\n")
    return 1 if broken else 0


def print_drawing(files: dict[str, Path], packages: set[str], folders: dict[str, list[str]], arrows: Graph) -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in files.items()}
    for folder in folders:
        own = sorted(module for module in folders[folder] if module not in packages)
        total = sum(lines[module] for module in folders[folder])
        heading = folder.replace(".", "/")
        if folder in packages:
            sys.stdout.write(f"{heading}/  {len(folders[folder])} files, {total} lines\n")
        else:
            sys.stdout.write(f"{heading}.py  {total} lines\n")
        if own and folder in packages:
            names = ", ".join(f"{module.rpartition('.')[2]} {lines[module]}" for module in own)
            sys.stdout.write(f"    {names}\n")
        if arrows[folder]:
            named = arrows[folder] - {f"{room}.errors" for room in ROOMS}  # which everybody imports
            targets = ", ".join(sorted(target.replace(".", "/") for target in named))
            sys.stdout.write(f"    imports {targets}\n")
    longest = max(lines, key=lambda module: lines[module])
    sys.stdout.write(
        f"{len(files)} files in {len(folders)} folders, {sum(lines.values())} lines; "
        f"the longest file is {longest} with {lines[longest]}\n"
    )


def print_imports(place: str) -> int:
    files, at_load, _ = read_house()
    start = place.removesuffix(".py").strip("/").replace("/", ".")
    starts = [module for module in files if module == start or module.startswith(f"{start}.")]
    if not starts:
        sys.stderr.write(f"Error: there is no module {start}\n")
        return 2
    reached = sorted(reachable(at_load, starts))
    sys.stdout.write("\n".join(reached) + f"\n{len(reached)} files\n")
    return 0


def main(words: list[str]) -> int:
    if words[:1] == ["--imports"] and len(words) == 2:
        return print_imports(words[1])
    if words not in ([], ["--rules"]):
        sys.stderr.write(f"{__doc__}")
        return 2
    return print_house(drawing=not words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
