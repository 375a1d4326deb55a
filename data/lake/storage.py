"""One set of verbs for a folder on disk and a prefix on object storage, for any fsspec URL.

Credentials and endpoints come from the environment, as s3fs and the AWS tools read them (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, ...); `delta_options` says the same to deltalake's own client.
"""

import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
from botocore.exceptions import BotoCoreError
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs as pafs

S3_TRIES = 4  # of botocore; s3fs asks several times more after what may pass
DELTA_RETRIES = 10
CLIENT_TRIES = 6  # of deltalake's client, which asks again after a 5xx but not when an answer is cut off
UNREACHABLE = (OSError, ValueError, ImportError, BotoCoreError)  # what a store raises that isn't there or says no


Answer = TypeVar("Answer")


@lru_cache(maxsize=32)
def filesystem(protocol: str) -> Any:
    """The fsspec filesystem of a protocol; one per process, so that connections are kept."""
    if protocol == "s3":
        retries = {"retries": {"max_attempts": S3_TRIES, "mode": "standard"}}
        return fsspec.filesystem("s3", config_kwargs=retries, use_listings_cache=False)
    return fsspec.filesystem(protocol)


os.register_at_fork(after_in_child=filesystem.cache_clear)  # a connection serves one process alone


def split_url(url: str) -> tuple[Any, str]:
    """A URL or path as (filesystem, path on it)."""
    protocol, _ = fsspec.core.split_protocol(url)
    if protocol in (None, "file"):
        return filesystem("file"), os.path.abspath(url.removeprefix("file://"))
    fs = filesystem("s3" if protocol in ("s3", "s3a") else protocol)
    return fs, fs._strip_protocol(url)


def join(url: str, *parts: str) -> str:
    return "/".join([url.rstrip("/"), *parts])


def resolve_path(folder: Path, path: str) -> str:
    """A relative path looked up from a folder; a URL or an absolute one as it is."""
    whole = fsspec.core.split_protocol(path)[0] is not None or Path(path).is_absolute()
    return path if whole else str(folder / path)


def without_secrets(url: str) -> str:
    """A URL as it may be shown: no user, no password, no signature."""
    url = re.sub(r"(?<=://)[^/@\s]+@", "", url)
    return re.sub(r"^(https?://[^?\s]+)\?\S*", r"\1", url)


def is_local(url: str) -> bool:
    return isinstance(split_url(url)[0], LocalFileSystem)


def exists(url: str) -> bool:
    fs, path = split_url(url)
    fs.invalidate_cache()
    return bool(fs.exists(path))


def is_empty(url: str, but: str | None = None) -> bool:
    """Whether nothing lies at the URL: no such folder, or one without entries (`but` those that begin so)."""
    fs, path = split_url(url)
    if not fs.exists(path):
        return True
    if not fs.isdir(path):
        return False
    names = (entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=False))
    return all(but is not None and name.startswith(but) for name in names)


def folders(url: str) -> list[str]:
    """The names of the folders at a URL, in order."""
    fs, path = split_url(url)
    fs.invalidate_cache()
    entries = fs.ls(path, detail=True) if fs.exists(path) else []
    return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")


def files(url: str) -> list[str]:
    """The paths of all files under a URL, relative to it, in order."""
    return [path for path, _, _ in list_details(url)]


def list_details(url: str) -> Iterator[tuple[str, int, float]]:
    """Every file under a URL: path relative to it, bytes, and when it was written, in seconds since 1970."""
    fs, path = split_url(url)
    fs.invalidate_cache()
    start = len(path.rstrip("/")) + 1
    for name, info in sorted(fs.find(path, detail=True).items()):
        at = info.get("mtime") or info.get("LastModified") or 0.0
        yield name[start:], int(info["size"]), at if isinstance(at, int | float) else at.timestamp()


def read(url: str, most: int | None = None) -> bytes:
    """An object, or its first bytes."""
    fs, path = split_url(url)
    return bytes(fs.cat_file(path, end=most))


def open_to_read(url: str, ahead: int | None = None) -> Any:
    """A file to read from its start on, and to seek in; on a store `ahead` bytes are read at once."""
    fs, path = split_url(url)
    return fs.open(path, "rb", block_size=ahead)


def write(url: str, content: bytes) -> None:
    """Write a whole object; on disk it has reached the device when this returns, and is never seen half."""
    fs, path = split_url(url)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, content)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)


@contextmanager
def atomic_file(url: str) -> Iterator[Path]:
    """A path on disk to write a file of any size to; it is at the URL, whole, once the block has ended well."""
    fs, path = split_url(url)
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            yield part
            fs.put_file(str(part), path)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")  # one that was left by a killed process is written over
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def size(url: str) -> int:
    fs, path = split_url(url)
    return int(fs.size(path))


def remove(url: str) -> None:
    fs, path = split_url(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def arrow_filesystem(url: str) -> pafs.FileSystem:
    """The pyarrow view of the same store: native for a disk, through fsspec for the rest."""
    fs, _ = split_url(url)
    if isinstance(fs, LocalFileSystem):
        return pafs.LocalFileSystem()
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs))


def open_ranges(url: str) -> pa.NativeFile:
    """A file to read parts of: only the bytes asked for are fetched, where fsspec would read on for megabytes."""
    fs, path = split_url(url)
    if isinstance(fs, LocalFileSystem):
        return pafs.LocalFileSystem().open_input_file(path)
    return pa.PythonFile(fs.open(path, "rb", cache_type="none"), mode="r")


def delta_url(url: str) -> str:
    """The URL as deltalake wants it."""
    return split_url(url)[1] if is_local(url) else url


def delta_options(url: str) -> dict[str, str]:
    """deltalake's storage options: commits by conditional put, plain http where the endpoint is plain http."""
    if is_local(url):
        return {}
    options = {"conditional_put": "etag", "max_retries": str(DELTA_RETRIES)}
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["allow_http"] = "true"
    return options


def with_retries(url: str, ask: Callable[[], Answer]) -> Answer:
    """Ask deltalake, and again where a store on the network failed to answer."""
    for wait in range(CLIENT_TRIES - 1):
        try:
            return ask()
        except (CommitFailedError, TableNotFoundError):
            raise
        except (DeltaError, OSError):
            if is_local(url):
                raise
            time.sleep(random.uniform(0.1, 0.2) * 2**wait)
    return ask()
