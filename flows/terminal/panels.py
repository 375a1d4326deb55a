"""The help of a command with many verbs: one panel per subject, in the order in which panels were added."""

from collections.abc import Callable, Iterable
from typing import Any

import typer
from typer.core import TyperGroup

Verb = Callable[..., None]


class PanelGroup(TyperGroup):
    """Lists its commands by panel, as plain text, without loading rich."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, in the order in which they were added."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per panel."""
        panels: dict[str, list[tuple[str, Any]]] = {}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            panels.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append((name, command))
        width = formatter.width - 6 - max(len(name) for name in self.commands)
        for panel, commands in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name, command.get_short_help_str(width)) for name, command in commands])


def add_panel(app: typer.Typer, panel: str, verbs: Iterable[Verb], groups: Iterable[typer.Typer] = ()) -> None:
    """Add verbs, then groups of verbs, to a panel."""
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
    for group in groups:
        app.add_typer(group, rich_help_panel=panel)
