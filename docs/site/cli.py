"""The command line reference, docs/cli.md, written from the commands themselves: `python -m docs.site.cli`."""

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperCommand, TyperGroup

from flows.command import app

Command = TyperCommand | TyperGroup

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cli.md"
HEAD = """# Command line reference

<!-- Written by `python -m docs.site.cli` from the commands in flows/. Change them there and run it again. -->

Each command prints the same with `--help`. `--lake` and `IMAGEN_LAKE` name the lake that a verb reads or writes.
Results go to standard output, errors to standard error; `--json` prints one JSON document instead of tables.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the answer is no: `verify` found a difference, `promote` rejected the model, `world check` a caption |
| 2 | wrong usage, or an error that you can correct: one line on standard error says what to change |
| 3 | `promote` wants the decision of a person |
| 75 | a training was interrupted and wrote a checkpoint: run the same command again |
"""


def reference() -> str:
    """The whole page as Markdown."""
    root = typer.main.get_command(app)
    verbs = list(walk(root, typer.Context(root, info_name="imagen")))
    parts = [HEAD]
    for panel in dict.fromkeys(panel for _, _, panel in verbs):
        rows = [(context, command) for context, command, of in verbs if of == panel]
        parts += [f"\n## {panel}\n", "| verb | |", "|---|---|"]
        parts += [f"| {link(context)} | {escape(summary(command))} |" for context, command in rows]
        parts += [section(context, command) for context, command in rows]
    return "\n".join(parts).replace(f"{ROOT}/", "").rstrip() + "\n"  # a default that is a path of this project


def walk(
    command: Command, context: typer.Context, panel: str = "Verbs"
) -> Iterator[tuple[typer.Context, TyperCommand, str]]:
    """Every command that does something, with its context and its panel; groups are walked through."""
    if not isinstance(command, TyperGroup):
        yield context, command, panel
        return
    for name in command.list_commands(context):
        child = command.commands[name]
        named = getattr(child, "rich_help_panel", None)
        inner = typer.Context(child, info_name=name, parent=context)
        yield from walk(child, inner, named if isinstance(named, str) else panel)


def section(context: typer.Context, command: Command) -> str:
    """One command: what it does, how it is called, its arguments and options, its examples."""
    text, examples = split_help(command.help or "")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    records = (parameter.get_help_record(context) for parameter in command.params)
    rows = [row(*record) for record in records if record]
    table = ["| argument or option | |", "|---|---|", *rows, ""] if rows else []
    shown = [*(f"    {example}" for example in examples), ""] if examples else []
    title = f"\n### {context.command_path}\n"
    return "\n".join([title, escape(text), "", "```text", usage, "```", "", *table, *shown]).rstrip()


def row(names: str, help_text: str) -> str:
    """One line of the table of a command: how an argument or option is written, and its help with the default."""
    return f"| `{names.replace('|', '&#124;')}` | {escape(help_text)} |"


def split_help(text: str) -> tuple[str, list[str]]:
    """The prose of a command's help, and the commands that it gives as examples."""
    prose, _, rest = re.sub(r"[\b\f]", "", text).partition("Example")
    lines = (line.strip() for line in re.sub(r"\A(s)?:", "", rest).splitlines())
    return "\n".join(line.rstrip() for line in prose.strip().splitlines()), [line for line in lines if "imagen" in line]


def summary(command: Command) -> str:
    """What the list of commands says of one: the first sentence of its help, if it has nothing shorter."""
    if command.short_help:
        return command.short_help.rstrip(".")
    paragraph = " ".join(split_help(command.help or "")[0].split("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph)[0].rstrip(".")


def link(context: typer.Context) -> str:
    return f"[{context.command_path}](#{context.command_path.replace(' ', '-')})"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, also within a table; `code` stays code."""
    return re.sub(r"([|*<])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(reference())
