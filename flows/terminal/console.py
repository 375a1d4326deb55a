"""The console for progress and messages."""

from rich.console import Console

# Messages go to stderr, so that stdout has only results.
console = Console(stderr=True)
