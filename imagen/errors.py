"""Everything that can go wrong with models.

ImagenError
├── TrainingDiverged   no step had a finite loss for a while
├── EmptyDataset       fewer samples than a batch
├── Stopped            told to stop; the run can be resumed
└── ModelNotUsable     a folder that holds no cascade of ours, or not this version's
"""

from data.errors import ImagenError


class TrainingDiverged(ImagenError):
    """No step had a finite loss for a while."""


class EmptyDataset(ImagenError):
    """Fewer samples than a batch."""


class Stopped(ImagenError):
    """Told to stop; a checkpoint was written, and the same command goes on."""


class ModelNotUsable(ImagenError):
    """What was to be loaded is no cascade, or not one of this version."""
