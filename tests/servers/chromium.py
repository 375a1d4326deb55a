"""A page as headless Chromium has it: what is on it, what it said on its console, how it looks."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian: chromium)")


def opened(page: Path, shot: Path | None = None, size: str = "1200,2400") -> tuple[str, list[str]]:
    """The page's elements after it is loaded, and the lines of its console; a screenshot if asked for."""
    return looked_at(page.as_uri(), page.parent / "chromium", shot, size)


def looked_at(
    where: str, profile: Path, shot: Path | None = None, size: str = "1200,2400", more: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """The same of a page at an address."""
    assert CHROMIUM is not None
    common = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ]
    common += [f"--window-size={size}", "--enable-logging=stderr", *more]
    done = subprocess.run([*common, "--dump-dom", where], capture_output=True, text=True, timeout=120, check=True)
    if shot is not None:
        subprocess.run([*common, f"--screenshot={shot}", where], capture_output=True, timeout=120, check=True)
    return done.stdout, re.findall(r":CONSOLE[:(]\d+\)?\] (.*)", done.stderr)
