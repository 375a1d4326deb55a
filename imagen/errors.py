"""The errors of models and trainings that a user can act on. Each message says what happened, to what, and what to do.

ImagenError                in data/errors.py; all of these are its children
├── ConfigError            a training's, an evaluation's or a gate's configuration is not valid
├── TrainingDiverged       no step had a finite loss for a while
├── TrainingStopped        a signal stopped a training; the same command continues it
├── EmptyDataset           a dataset has fewer samples than a batch
├── TextNotUsable          a dataset lacks the embeddings that a model reads
├── OutOfMemory            a training needs more memory than there is
├── ModelNotFound          there is no such model, or a name has no champion
├── ChampionChanged        another model became champion at the same time
├── ModelNotUsable         a folder holds no cascade, or a damaged one, or one of a later version
├── PictureNotUsable       a file is no image, or does not say how it was generated
├── SuiteError             a suite of prompts is not valid
├── WeightsNotUsable       the model of a metric is missing or has other weights than expected
└── TooFewSamples          a metric needs more images than there are
"""

from data.errors import ImagenError

RESUMABLE = 75  # the exit code that sysexits.h has for: try again later


class ConfigError(ImagenError):
    """A configuration can't be read or is not valid; the message names the file, the line and the field."""


class TrainingDiverged(ImagenError):
    """No step had a finite loss for a while."""


class TrainingStopped(ImagenError):
    """A signal stopped a training. A checkpoint was written, and the same command continues from it."""

    code = RESUMABLE


class EmptyDataset(ImagenError):
    """A dataset has fewer samples than a batch."""


class TextNotUsable(ImagenError):
    """A dataset has no embeddings, or its embeddings are from another encoder than the model reads."""


class OutOfMemory(ImagenError):
    """A training needs more memory than there is; the message names the settings that lower it."""


class ModelNotFound(ImagenError):
    """There is no such folder and no such model of a lake, or a name has no champion."""


class ChampionChanged(ImagenError):
    """Another model became champion while this one was compared with the previous champion. Nothing was changed."""


class ModelNotUsable(ImagenError):
    """A folder contains no cascade, or a damaged one, or one of a later version."""


class PictureNotUsable(ImagenError):
    """A file is missing, is no image, or does not say how it was generated."""


class SuiteError(ImagenError):
    """A suite of prompts can't be read or is not valid."""


class WeightsNotUsable(ImagenError):
    """The model of a metric is missing, or its weights differ from those in the metric's definition."""


class TooFewSamples(ImagenError):
    """A metric needs more images than there are."""
