"""Everything that can go wrong with models.

ImagenError
├── TrainingDiverged   no step had a finite loss for a while
└── EmptyDataset       fewer samples than a batch
"""

from data.errors import ImagenError


class TrainingDiverged(ImagenError):
    """No step had a finite loss for a while."""


class EmptyDataset(ImagenError):
    """Fewer samples than a batch."""
