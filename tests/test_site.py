"""The site: the command line reference says what the commands say, and the API reference has every module."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from docs.site import api, build, cli
from flows.command import app

ROOT = Path(__file__).parents[1]


def test_the_command_line_reference_is_up_to_date() -> None:
    assert cli.PAGE.read_text() == cli.reference(), "run: python -m docs.site.cli"


def test_the_command_line_reference_has_every_verb_and_option() -> None:
    sections = dict(re.findall(r"^### (.+)\n((?:(?!##).*\n)+)", cli.PAGE.read_text(), flags=re.M))
    verbs = list(cli.walk(root := typer.main.get_command(app), typer.Context(root, info_name="imagen")))
    assert len(verbs) > 30
    assert set(sections) == {context.command_path for context, _, _ in verbs}
    for context, command, _ in verbs:
        for parameter in command.params:
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert name in sections[context.command_path], f"{context.command_path} lacks {name}"


def test_every_verb_has_an_example() -> None:
    root = typer.main.get_command(app)
    for context, command, _ in cli.walk(root, typer.Context(root, info_name="imagen")):
        _, examples = cli.split_help(command.help or "")
        assert any(context.command_path in example for example in examples), context.command_path


def test_every_module_is_in_the_api_reference() -> None:
    files = {file for package in api.PACKAGES for file in (ROOT / package).rglob("*.py") if file.stem[0] != "_"}
    listed = re.findall(r"automodule:: (\S+)", "".join(api.pages().values()))
    assert {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files} <= set(listed)


def test_every_page_is_in_a_menu() -> None:
    pages = {f"docs/{page.stem}" for page in (ROOT / "docs").glob("*.md")}
    listed = {f"docs/{name}" for name in (*build.GUIDES, *build.ABOUT)} | set(build.REFERENCE)
    assert pages == {place for place in listed if place.startswith("docs/")}


@pytest.mark.nightly
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "docs.site.build", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").exists()
