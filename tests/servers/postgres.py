"""A PostgreSQL server of our own, on a free loopback port, ended by its own process id."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import free_port

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: int(path.parent.name))
needs_postgres = pytest.mark.skipif(BIN is None, reason="there is no PostgreSQL (Debian: postgresql)")
OWNER = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
START_SECONDS = 60


class Postgres:
    def __init__(self, folder: Path) -> None:
        assert BIN is not None
        self.folder, self.port, self.process = folder, free_port(), None
        if OWNER:
            shutil.chown(folder, OWNER)
        words = [BIN / "initdb", "-D", folder / "data", "-U", "imagen", "-A", "trust", "--no-sync"]
        subprocess.run(words, user=OWNER, check=True, capture_output=True, cwd=folder)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://imagen@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        assert BIN is not None
        words = [
            BIN / "postgres",
            "-D",
            self.folder / "data",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-k",
            self.folder,
        ]
        self.process = subprocess.Popen(
            words, user=OWNER, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ready = [BIN / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        for _ in range(START_SECONDS * 10):
            if subprocess.run(ready).returncode == 0:
                return
            assert self.process.poll() is None
            time.sleep(0.1)
        raise AssertionError("PostgreSQL did not start")

    def stop(self) -> None:
        """At once: every connection is closed."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
