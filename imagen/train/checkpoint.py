"""Checkpoints of a run, on a disk or a store: safetensors and JSON, no pickles, whole or not there.

A checkpoint is a folder `step-000000123`. Its `state.json` is written last and names the digest of every other file;
a folder without it, or of which a file is not what it says, was never finished, and is passed over.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.lake import storage

if TYPE_CHECKING:
    from torch import Tensor

STATE = "state.json"
FOLDER = re.compile(r"step-(\d{9})")


@dataclass(frozen=True)
class RunState:
    """All that a run needs to go on: tensors by group (weights, averages, optimizer), and what is no tensor."""

    step: int
    tensors: "dict[str, dict[str, Tensor]]"
    more: dict[str, Any]
    over: bool = False  # its run is at its end


def device_seconds(told: dict[str, Any]) -> float:
    """What a training took of all its devices; what was written before they were counted is taken for one's."""
    return float(told.get("device_seconds", told["seconds"]))


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: the last `keep` stay, and those of every so many steps."""

    url: str
    keep: int = 2
    for_good_every: int | None = None

    def save(self, state: RunState) -> None:
        """Write one, then take away those that need not stay."""
        from safetensors.torch import save

        folder, files = self._folder(state.step), {}
        for group, tensors in state.tensors.items():
            content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
            storage.write(storage.join(folder, f"{group}.safetensors"), content)
            files[group] = hashlib.sha256(content).hexdigest()
        said = {"step": state.step, "over": state.over, "files": files, "more": state.more}
        storage.write(storage.join(folder, STATE), json.dumps(said).encode())
        self._tidy(state.step)

    def steps(self) -> list[int]:
        """Of every checkpoint that was begun, in order."""
        found = (FOLDER.fullmatch(name) for name in storage.folders(self.url))
        return sorted(int(name[1]) for name in found if name)

    def newest(self, groups: Collection[str] | None = None) -> RunState | None:
        """The last whole one, with some groups of its tensors or all."""
        for step in reversed(self.steps()):
            state = self._read(self._folder(step), groups)
            if state is not None:
                return state
        return None

    def _folder(self, step: int) -> str:
        return storage.join(self.url, f"step-{step:09d}")

    def _read(self, folder: str, groups: Collection[str] | None) -> RunState | None:
        from safetensors.torch import load

        if not storage.exists(storage.join(folder, STATE)):
            return None
        try:
            said, tensors = json.loads(storage.read(storage.join(folder, STATE))), {}
            for group in said["files"] if groups is None else groups:
                content = storage.read(storage.join(folder, f"{group}.safetensors"))
                if hashlib.sha256(content).hexdigest() != said["files"][group]:
                    raise ValueError(f"{group}.safetensors is not what was written")
                tensors[group] = load(content)
            return RunState(said["step"], tensors, said["more"], said["over"])
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            warnings.warn(f"checkpoint {folder} is damaged and passed over: {error}", stacklevel=4)
            return None

    def _tidy(self, now: int) -> None:
        """What was begun and not finished goes, and what lies ahead: this run did not go on from it, it was damaged."""
        finished = []
        for step in self.steps():
            if step > now or not storage.exists(storage.join(self._folder(step), STATE)):
                self._remove(step)
            else:
                finished.append(step)
        for step in finished[: -self.keep]:
            if not self.for_good_every or step % self.for_good_every:
                self._remove(step)

    def _remove(self, step: int) -> None:
        storage.remove(storage.join(self._folder(step), STATE))  # first, so that no half of it looks finished
        storage.remove(self._folder(step))
