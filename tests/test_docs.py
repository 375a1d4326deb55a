"""What README and docs tell a user to type: commands that take these words; what is marked is run as written."""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prefect.events.schemas.automations import AutomationCore
from typer.core import TyperGroup

from data.build.recipe import Recipe
from flows.command import app
from imagen.config.training import load_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = "<!-- runs -->\n\n"
FOREVER = "imagen up"


def commands() -> Iterator[tuple[str, str]]:
    """Those on lines of their own, and those within a sentence that have words after the verb."""
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        lines = re.findall(r"^ {4}(?:[A-Z_]+=\S+ )*(imagen .*)$", text, flags=re.M)
        quoted = [words for words in re.findall(r"`(imagen [^`\n]+)`", text) if len(words.split()) > 2]
        yield from ((page.name, words) for words in [*lines, *quoted] if "..." not in words)


@pytest.mark.parametrize(("page", "line"), list(commands()), ids=[f"{page}: {line[:50]}" for page, line in commands()])
def test_every_command_takes_the_words_that_it_is_given(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if ">" in words:
        words = words[: words.index(">")]
    command: Any = typer.main.get_command(app)
    parent = None
    while isinstance(command, TyperGroup):
        assert words[0] in command.commands, f"{page} tells of `{line}`"
        parent = typer.Context(command, info_name=command.name, parent=parent)
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, words, parent=parent)


def blocks(kind: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        yield from ((page.name, text) for text in re.findall(rf"```{kind}\n(.*?)```", page.read_text(), flags=re.S))


@pytest.mark.parametrize(("page", "text"), list(blocks("yaml")))
def test_every_file_that_is_shown_is_read(page: str, text: str, tmp_path: Path) -> None:
    values = yaml.safe_load(text)
    if "sources" in values:
        assert Recipe.model_validate(values).name == values["name"]
    elif "preset" in values:
        (tmp_path / "shown.yaml").write_text(text)
        assert load_config(str(tmp_path / "shown.yaml")).name == values["name"]
    elif "trigger" in values:
        text = text.replace("ID OF THE BLOCK", "00000000-0000-0000-0000-000000000000")
        assert AutomationCore.model_validate(yaml.safe_load(text)).name == values["name"]


def shown_imports() -> Iterator[tuple[Path, str]]:
    """The names of this project that the pages import in Python, each with the file that should have it."""
    for _, text in blocks("python"):
        for node in ast.walk(ast.parse(text)):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.split(".")[0] in ("data", "imagen", "flows"):
                place = ROOT.joinpath(*module.split("."))
                file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                yield from ((file, alias.name) for alias in node.names)


def test_every_import_that_is_shown_exists() -> None:
    shown = list(shown_imports())
    assert len(shown) > 5
    defined = r"^(?:class|def) {name}\b|^__all__ = .*\b{name}\b"
    missing = [
        f"{file}: {name}"
        for file, name in shown
        if not re.search(defined.format(name=name), file.read_text(), flags=re.M)
    ]
    assert not missing


def named_files() -> Iterator[tuple[Path, str]]:
    """Files and folders of this project that a page names as code, and those that it links to or shows."""
    for page in PAGES:
        text = page.read_text()
        code = re.findall(r"`((?:data|imagen|flows|infra|tests|docs)/[\w./]*)(?:::\w+)?`", text)
        yield from ((ROOT / path, f"{page.name}: {path}") for path in code if "NAME" not in path)
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
        yield from ((page.parent / path, f"{page.name}: {path}") for path in links)


def test_every_file_that_a_page_names_exists() -> None:
    missing = [where for path, where in named_files() if not path.exists()]
    assert not missing


def block(text: str) -> tuple[str, str]:
    """The first one of a text: a fence with blank lines in it, or what is indented."""
    if text.startswith("```"):
        kind, _, rest = text.removeprefix("```").partition("\n")
        return kind, rest.partition("\n```")[0]
    return "shell", text.partition("\n\n")[0]


def test_a_marked_block_is_read_to_its_end() -> None:
    read = [block(rest) for rest in (ROOT / "README.md").read_text().split(MARK)[1:]]
    assert [kind for kind, _ in read] == ["shell", "shell", "python", "python"]
    for kind, text in read:
        if kind == "python":
            compile(text, "README.md", "exec")
    assert ".generate_image(" in read[3][1]
    assert "np.frombuffer(" in read[2][1]


@pytest.mark.nightly
@pytest.mark.timeout(5400)
def test_what_the_readme_marks_runs_as_it_is_written(tmp_path: Path) -> None:
    """In a fresh clone, with this environment in the place of one that `make` would install there."""
    assert (Path(sys.prefix) / ".develop").exists(), "make demo would change this environment: run make nightly"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    clone = tmp_path / "clone"
    (clone / ".venv").symlink_to(sys.prefix)
    for file in ("requirements-dev.lock", "pyproject.toml"):
        os.utime(clone / file, (0, 0))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment |= {"PYTHONPATH": str(clone), "VIRTUAL_ENV_DISABLE_PROMPT": "1"}
    marked = [block(rest) for rest in (ROOT / "README.md").read_text().split(MARK)[1:]]
    assert len(marked) == 4

    def shell(line: str) -> "subprocess.Popen[str]":
        words = f". .venv/bin/activate && {'exec ' if line.startswith(FOREVER) else ''}{line}"
        return subprocess.Popen(["bash", "-c", words], cwd=clone, env=environment, start_new_session=True, text=True)

    for kind, text in marked:
        if kind == "python":
            subprocess.run([clone / ".venv/bin/python", "-c", text], cwd=clone, env=environment, check=True)
            continue
        running = None
        for line in (line.strip() for line in text.split("\n")):
            if line.startswith("make test"):  # which is what runs this
                continue
            process = shell(line)
            if line.startswith(FOREVER):
                running = process
                url = clone / "lake/platform/url"
                while not url.exists():
                    assert process.poll() is None
                    time.sleep(1)
            else:
                assert process.wait() == 0, line
        if running:
            os.killpg(running.pid, signal.SIGINT)
            assert running.wait(120) == 0
    for file in ("lake/datasets/shapes", "grid.png", "mine.yaml", "compare.png"):
        assert (clone / file).exists(), file
