"""What can go wrong in imagen/, in words for whoever can act.

ImagenError
├── ConfigError        a training's configuration is not usable
├── TrainingDiverged   no step had a finite loss for a while
├── TrainingStopped    told to stop; the same command goes on
├── EmptyDataset       fewer samples than a batch
├── TextNotUsable      the dataset's embeddings are missing, or not those that the model reads
├── OutOfMemory        a training needs more memory than there is
├── ModelNotFound      there is no such model
├── ChampionChanged    another champion was made meanwhile
├── ModelNotUsable     a folder that holds no cascade, or not one that this version reads
├── PictureNotUsable   a file that is no picture, or does not say how it was made
├── SuiteError         a suite of prompts is not usable
├── WeightsNotUsable   a metric's model is missing, or is not what it should be
└── TooFewSamples      a metric needs more pictures
"""

from data.errors import ImagenError

RESUMABLE = 75  # exit code: as sysexits.h has it, try again later


class ConfigError(ImagenError):
    """A training's configuration is not usable."""


class TrainingDiverged(ImagenError):
    """No step had a finite loss for a while."""


class TrainingStopped(ImagenError):
    """Told to stop: a checkpoint was written, and the same command goes on from it."""

    code = RESUMABLE


class EmptyDataset(ImagenError):
    """Fewer samples than a batch."""


class TextNotUsable(ImagenError):
    """The dataset's embeddings are missing, or not those that the model reads."""


class OutOfMemory(ImagenError):
    """A training needs more memory than there is."""


class ModelNotFound(ImagenError):
    """There is no such model."""


class ChampionChanged(ImagenError):
    """Another champion was made while a model was held against the one before."""


class ModelNotUsable(ImagenError):
    """What was to be loaded is no cascade, or not one that this version reads."""


class PictureNotUsable(ImagenError):
    """A file that is no picture, or does not say how it was made."""


class SuiteError(ImagenError):
    """A suite of prompts is not usable."""


class WeightsNotUsable(ImagenError):
    """A metric's model is missing, or is not what it should be."""


class TooFewSamples(ImagenError):
    """A metric needs more pictures than there are."""
