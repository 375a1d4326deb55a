"""Checkpoints of a run on a disk or a store, as safetensors and JSON. A checkpoint is complete or ignored.

A checkpoint is a folder `step-000000123`. Its `state.json` is written last and contains the digest of every other file.
A folder without `state.json` was never finished, and a folder in which a file has another digest is damaged. Both are
skipped.
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
    """All that a run needs to continue."""

    step: int
    tensors: "dict[str, dict[str, Tensor]]"  # by group: unet, ema, optimizer
    values: dict[str, Any]  # everything that is not a tensor; JSON
    finished: bool = False  # whether the run is at its end


def device_seconds(values: dict[str, Any]) -> float:
    """Return the seconds that a training took, summed over its devices.

    Records of older versions count as one device.
    """
    return float(values.get("device_seconds", values["seconds"]))


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    The last `keep` checkpoints are kept, and those at multiples of `for_good_every` steps.
    """

    url: str
    keep: int = 2
    for_good_every: int | None = None

    def save(self, state: RunState) -> None:
        """Write a checkpoint, then remove old ones that are not kept."""
        from safetensors.torch import save

        folder, digests = self._folder(state.step), {}
        for group, tensors in state.tensors.items():
            content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
            storage.write(storage.join(folder, f"{group}.safetensors"), content)
            digests[group] = hashlib.sha256(content).hexdigest()
        record = {"step": state.step, "over": state.finished, "files": digests, "more": state.values}
        storage.write(storage.join(folder, STATE), json.dumps(record).encode())
        self._clean_up(state.step)

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, unfinished ones included, in order."""
        matches = [FOLDER.fullmatch(name) for name in storage.folders(self.url)]
        return sorted(int(match[1]) for match in matches if match)

    def newest(self, groups: Collection[str] | None = None) -> RunState | None:
        """Load the newest complete checkpoint, or return None if no checkpoint is complete.

        `groups` limits which tensors are loaded. Warns of each damaged checkpoint that it skips.
        """
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
            record, tensors = json.loads(storage.read(storage.join(folder, STATE))), {}
            for group in record["files"] if groups is None else groups:
                content = storage.read(storage.join(folder, f"{group}.safetensors"))
                if hashlib.sha256(content).hexdigest() != record["files"][group]:
                    raise ValueError(f"{group}.safetensors has another digest than when it was written")
                tensors[group] = load(content)
            return RunState(record["step"], tensors, record["more"], record["over"])
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            warnings.warn(f"checkpoint {folder} is damaged and skipped: {error}", stacklevel=4)
            return None

    def _clean_up(self, current: int) -> None:
        """Remove old checkpoints, unfinished ones, and later ones, from which this run did not continue."""
        finished = []
        for step in self.steps():
            if step > current or not storage.exists(storage.join(self._folder(step), STATE)):
                self._remove(step)
            else:
                finished.append(step)
        for step in finished[: -self.keep]:
            if not self.for_good_every or step % self.for_good_every:
                self._remove(step)

    def _remove(self, step: int) -> None:
        storage.remove(storage.join(self._folder(step), STATE))  # first, so that a half-removed one looks unfinished
        storage.remove(self._folder(step))
