"""A Ceph cluster of one node with its S3 gateway: another store than moto, and one that outlives its processes.

Debian's packages radosgw, ceph-mon, ceph-osd and ceph-common have the programs. A monitor, one object store on a
sparse file, the gateway: three processes of ours on loopback ports, everything of theirs in one folder.
"""

import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Self

PROGRAMS = ("monmaptool", "ceph-authtool", "ceph-mon", "ceph-osd", "ceph", "radosgw", "radosgw-admin")
KEY = "durable"  # access key and secret
CONFIGURATION = """
[global]
fsid = {fsid}
mon host = {monitor}
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
log file = {folder}/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = bluestore
bluestore block size = 10737418240
bluestore block create = true
osd memory target = 939524096
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Ceph:
    """`with Ceph(folder) as ceph: ceph.url`; `ceph.restart()` kills every process of it and starts them again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.processes = ExitStack()

    def __enter__(self) -> Self:
        fsid, disk = str(uuid.uuid4()), str(uuid.uuid4())
        monitor = f"[v2:127.0.0.1:{_free_port()},v1:127.0.0.1:{_free_port()}]"
        for name in ("mon", "osd"):
            (self.folder / name).mkdir()
        (self.folder / "ceph.conf").write_text(CONFIGURATION.format(fsid=fsid, folder=self.folder, monitor=monitor))
        self.keep_keys()
        self.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor, "monmap")
        self.run("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap", "--keyring", "keyring")
        self.start("ceph-mon", "-i", "a")
        self.run("ceph", "osd", "new", disk)
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self.start("ceph-osd", "-i", "0")
        self.start_gateway()
        keys = ("--access-key", KEY, "--secret", KEY)
        self.run("radosgw-admin", "user", "create", "--uid", KEY, "--display-name", KEY, *keys)
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.close()

    def restart(self) -> None:
        self.processes.close()
        self.start("ceph-mon", "-i", "a")
        self.start("ceph-osd", "-i", "0")
        self.start_gateway()

    def keep_keys(self) -> None:
        everything = ("--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        for name, monitors in (("mon.", "allow *"), ("client.admin", "allow *"), ("osd.0", "allow profile osd")):
            make = () if (self.folder / "keyring").exists() else ("--create-keyring",)
            self.run("ceph-authtool", "keyring", *make, "--gen-key", "-n", name, "--cap", "mon", monitors, *everything)

    def start_gateway(self) -> None:
        endpoint = f"beast endpoint={self.url.removeprefix('http://')}"
        self.start("radosgw", "-n", "client.admin", f"--rgw_frontends={endpoint}")
        end = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(self.url, timeout=5):
                    return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("a") as out:
            process = subprocess.Popen([*command, "-c", "ceph.conf", "-f"], cwd=self.folder, stdout=out, stderr=out)
        self.processes.callback(process.wait)
        self.processes.callback(process.kill)

    def run(self, *command: str) -> None:
        plain = command[0] in ("monmaptool", "ceph-authtool")
        words = [*command, *(() if plain else ("-c", "ceph.conf"))]
        subprocess.run(words, cwd=self.folder, check=True, capture_output=True, timeout=120)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
