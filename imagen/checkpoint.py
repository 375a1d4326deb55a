"""Checkpoints of a run, on a disk or a store: safetensors and JSON, no pickles, whole or not there.

A checkpoint is a folder `step-000000123`. Its `state.json` is written last and names the digest of every other file;
a folder without it, or of which a file is not what it says, was never finished, and is passed over.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from data import storage

STATE = "state.json"
FOLDER = re.compile(r"step-(\d{9})")


@dataclass(frozen=True)
class State:
    """All that a run needs to go on: tensors by group (weights, averages, optimizer), and what is no tensor."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    more: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: the last `keep` stay, and those of every so many steps."""

    url: str
    keep: int = 2
    for_good_every: int | None = None

    def save(self, state: State, over: bool = False) -> None:
        """Write one; `over` says that its run is at its end."""
        folder, files = storage.join(self.url, f"step-{state.step:09d}"), {}
        for group, tensors in state.tensors.items():
            content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
            storage.write(storage.join(folder, f"{group}.safetensors"), content)
            files[group] = hashlib.sha256(content).hexdigest()
        said = {"step": state.step, "over": over, "files": files, "more": state.more}
        storage.write(storage.join(folder, STATE), json.dumps(said).encode())
        for step in self.steps()[: -self.keep]:
            if self.for_good_every and step % self.for_good_every == 0:
                continue
            storage.remove(storage.join(self.url, f"step-{step:09d}"))

    def steps(self) -> list[int]:
        """Of every checkpoint that was begun, in order."""
        found = (FOLDER.fullmatch(name) for name in storage.folders(self.url))
        return sorted(int(name[1]) for name in found if name)

    def newest(self) -> State | None:
        """The last whole one."""
        for step in reversed(self.steps()):
            state = self._read(storage.join(self.url, f"step-{step:09d}"))
            if state is not None:
                return state
        return None

    def done(self) -> bool:
        """Whether the run is at its end."""
        paths = [storage.join(self.url, f"step-{step:09d}", STATE) for step in self.steps()[-1:]]
        return any(storage.exists(path) and json.loads(storage.read(path)).get("over", False) for path in paths)

    def _read(self, folder: str) -> State | None:
        if not storage.exists(storage.join(folder, STATE)):
            return None
        said, tensors = json.loads(storage.read(storage.join(folder, STATE))), {}
        for group, digest in said["files"].items():
            path = storage.join(folder, f"{group}.safetensors")
            content = storage.read(path) if storage.exists(path) else b""
            if hashlib.sha256(content).hexdigest() != digest:
                return None
            tensors[group] = load(content)
        return State(said["step"], tensors, said["more"])
