"""File operations that work the same on local folders and on object storage, for any fsspec URL.

Credentials and endpoints are environment variables, as for s3fs and the AWS tools (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, ...). `delta_options` configures deltalake's own client in the same
way.
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

S3_TRIES = 4  # tries by botocore; s3fs itself repeats requests after transient errors
DELTA_RETRIES = 10
CLIENT_TRIES = 6  # calls of deltalake's client, which itself retries after a 5xx but not when a response is cut off
UNREACHABLE = (OSError, ValueError, ImportError, BotoCoreError)  # raised by a store that is missing or refuses access


Result = TypeVar("Result")


@lru_cache(maxsize=32)
def filesystem(protocol: str) -> Any:
    """Return the fsspec filesystem for a protocol. It is cached per process, so that connections are reused."""
    if protocol == "s3":
        retries = {"retries": {"max_attempts": S3_TRIES, "mode": "standard"}}
        return fsspec.filesystem("s3", config_kwargs=retries, use_listings_cache=False)
    return fsspec.filesystem(protocol)


os.register_at_fork(after_in_child=filesystem.cache_clear)  # connections must not be shared between processes


def split_url(url: str) -> tuple[Any, str]:
    """Split a URL or path into its filesystem and the path on that filesystem."""
    protocol, _ = fsspec.core.split_protocol(url)
    if protocol in (None, "file"):
        return filesystem("file"), os.path.abspath(url.removeprefix("file://"))
    fs = filesystem("s3" if protocol in ("s3", "s3a") else protocol)
    return fs, fs._strip_protocol(url)


def join(url: str, *parts: str) -> str:
    """Append path components to a URL."""
    return "/".join([url.rstrip("/"), *parts])


def resolve_path(folder: Path, path: str) -> str:
    """Resolve a relative path against a folder. URLs and absolute paths are returned unchanged."""
    complete = fsspec.core.split_protocol(path)[0] is not None or Path(path).is_absolute()
    return path if complete else str(folder / path)


def without_secrets(url: str) -> str:
    """Remove user, password and query (which may contain a signature) from a URL, so that it can be shown."""
    url = re.sub(r"(?<=://)[^/@\s]+@", "", url)
    return re.sub(r"^(https?://[^?\s]+)\?\S*", r"\1", url)


def is_local(url: str) -> bool:
    """Return whether a URL names a path on this machine's disk."""
    return isinstance(split_url(url)[0], LocalFileSystem)


def exists(url: str) -> bool:
    """Return whether a file or folder exists. This asks the store instead of using a cached listing."""
    fs, path = split_url(url)
    fs.invalidate_cache()
    return bool(fs.exists(path))


def is_empty(url: str, ignored_prefix: str | None = None) -> bool:
    """Return whether a folder does not exist or has no entries.

    Args:
        ignored_prefix: Entries whose names begin with this prefix do not count.
    """
    fs, path = split_url(url)
    if not fs.exists(path):
        return True
    if not fs.isdir(path):
        return False
    names = (entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=False))
    return all(ignored_prefix is not None and name.startswith(ignored_prefix) for name in names)


def folders(url: str) -> list[str]:
    """List the names of the folders directly below a URL, sorted."""
    fs, path = split_url(url)
    fs.invalidate_cache()
    entries = fs.ls(path, detail=True) if fs.exists(path) else []
    return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")


def files(url: str) -> list[str]:
    """List the paths of all files below a URL, relative to the URL and sorted."""
    return [path for path, _, _ in list_details(url)]


def list_details(url: str) -> Iterator[tuple[str, int, float]]:
    """Yield each file below a URL, sorted by path: relative path, size in bytes, and time of writing as a Unix time."""
    fs, path = split_url(url)
    fs.invalidate_cache()
    start = len(path.rstrip("/")) + 1
    for name, info in sorted(fs.find(path, detail=True).items()):
        written = info.get("mtime") or info.get("LastModified") or 0.0
        yield name[start:], int(info["size"]), written if isinstance(written, int | float) else written.timestamp()


def read(url: str, limit: int | None = None) -> bytes:
    """Read a file, or its first `limit` bytes."""
    fs, path = split_url(url)
    return bytes(fs.cat_file(path, end=limit))


def open_to_read(url: str, block_size: int | None = None) -> Any:
    """Open a seekable file for sequential reading. On object storage, each request fetches `block_size` bytes."""
    fs, path = split_url(url)
    return fs.open(path, "rb", block_size=block_size)


def write(url: str, content: bytes) -> None:
    """Write a file atomically: a reader sees all of it or nothing. On disk, the file is synced before this returns."""
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
    """Write a file of any size atomically.

    Yields a path on disk to write to. When the block ends without an exception, the file is moved or uploaded to the
    URL.
    """
    fs, path = split_url(url)
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            yield part
            fs.put_file(str(part), path)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")  # overwrites a file that a killed process may have left
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def size(url: str) -> int:
    """The size of a file in bytes."""
    fs, path = split_url(url)
    return int(fs.size(path))


def remove(url: str) -> None:
    """Remove a file, or a folder with all its contents. Does nothing if it does not exist."""
    fs, path = split_url(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def arrow_filesystem(url: str) -> pafs.FileSystem:
    """Return the pyarrow filesystem for a URL: pyarrow's own for a disk, and a wrapper around fsspec's for others."""
    fs, _ = split_url(url)
    if isinstance(fs, LocalFileSystem):
        return pafs.LocalFileSystem()
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs))


def open_ranges(url: str) -> pa.NativeFile:
    """Open a file for random access. Only the requested bytes are fetched, whereas fsspec itself would read ahead."""
    fs, path = split_url(url)
    if isinstance(fs, LocalFileSystem):
        return pafs.LocalFileSystem().open_input_file(path)
    return pa.PythonFile(fs.open(path, "rb", cache_type="none"), mode="r")


def delta_url(url: str) -> str:
    """Return the URL in the form that deltalake accepts."""
    return split_url(url)[1] if is_local(url) else url


def delta_options(url: str) -> dict[str, str]:
    """Return storage options for deltalake: commit by conditional put, and allow plain http if the endpoint uses it."""
    if is_local(url):
        return {}
    options = {"conditional_put": "etag", "max_retries": str(DELTA_RETRIES)}
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["allow_http"] = "true"
    return options


def with_retries(url: str, request: Callable[[], Result]) -> Result:
    """Call deltalake, and repeat the call if a store on the network fails to answer. Pauses grow to 3 seconds.

    Raises:
        CommitFailedError, TableNotFoundError: Raised immediately, since a repetition would not help.
        DeltaError, OSError: Raised immediately for a disk, and after the last of CLIENT_TRIES for a network store.
    """
    for attempt in range(CLIENT_TRIES - 1):
        try:
            return request()
        except (CommitFailedError, TableNotFoundError):
            raise
        except (DeltaError, OSError):
            if is_local(url):
                raise
            time.sleep(random.uniform(0.1, 0.2) * 2**attempt)
    return request()
