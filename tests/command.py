"""The command `imagen` as tests run it: in this process, or as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from flows import command

IMAGEN = str(Path(sys.executable).with_name("imagen"))
SECONDS = 300


@dataclass(frozen=True)
class Finished:
    """The exit code and the output of a command line."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def sentence(self) -> str:
        """The error output on one line, without the frame that a wrong option is printed in."""
        return " ".join(self.stderr.replace("│", " ").split())


Command = Callable[..., Finished]


def run_imagen(*words: str, folder: Path, **environment: str) -> Finished:
    """Run a command line in this process, from a folder. It saves seconds of imports.

    Not for `build` and `demo`: a process that has run a flow keeps Prefect's threads.
    """
    out, errors = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.chdir(folder)
        for name, value in {"COLUMNS": "400", **environment}.items():
            patch.setenv(name, value)
        code = command.run(words)
    return Finished(code, out.getvalue(), errors.getvalue())


def start_imagen(*words: str, folder: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
    """Start a command line as a process of its own, with its output in pipes."""
    return subprocess.Popen(
        [IMAGEN, *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> Finished:
    """Wait for a started command."""
    stdout, stderr = process.communicate(timeout=SECONDS)
    return Finished(process.returncode, stdout, stderr)


def module_path(folder: Path) -> str:
    """PYTHONPATH with which a process imports the modules of a folder, too."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
