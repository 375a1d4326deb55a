"""The errors that a user can act on. Each message says what happened, to which thing, and what to do.

They form this tree:

    ImagenError
    ├── RecipeError            a recipe that can't be read or is not valid
    ├── SourceError            a source that is empty, lacks a column, or can't be read
    │   └── SourceUnreachable  the store of a source does not answer; a later run may succeed
    ├── LakeError              a lake that can't be opened or made
    │   ├── NotALake           the folder exists but contains no lake
    │   ├── LakeNotFound       the folder does not exist or is empty
    │   ├── LakeTooNew         the lake was made by a later version of this project
    │   ├── LakeNotWritable    the path can't be written
    │   └── UnsafeStore        the store would lose concurrent commits silently
    ├── TableNotFound          the lake has no table of that name yet
    ├── DatasetNotFound        no dataset of that name was published
    ├── DatasetVersionNotFound the dataset has no version of that number
    ├── PairNotFound           no pair in the lake has that URL or id
    ├── ReaderError            a dataset version that can't be read as asked
    │   ├── ColumnNotFound     the dataset version has no such column
    │   ├── StateMismatch      a reader's state belongs to another version, order, rank or worker
    │   └── SampleDamaged      a published picture that can't be decoded
    ├── ExportError            an export can't be written to the folder, or stopped before the end
    ├── GateClosed             the selected rows fail a gate of the recipe; nothing was published
    ├── ModelError             the files of a model are missing or can't be loaded
    ├── WorldError             a folder is not a built-in world, or can't become one
    ├── SettingsError          an environment variable has an invalid value
    ├── EngineUnavailable      the engine is not installed or not reachable, or has no free resources
    ├── WorkerDied             a worker process was killed repeatedly on the same shard
    └── ServerError            the server that tracks the runs did not start
"""


class ImagenError(Exception):
    """The root of the tree: catch it to catch every error that a user can act on."""

    code = 2  # the exit code of the command


class RecipeError(ImagenError):
    """A recipe can't be read or is not valid. The message names the file, the line and the field."""


class SourceError(ImagenError):
    """A source is empty, lacks a column, or can't be read."""


class SourceUnreachable(SourceError):
    """The store of a source does not answer. A later run may succeed."""


class LakeError(ImagenError):
    """A lake can't be opened or made."""


class NotALake(LakeError):
    """The folder exists but contains no lake, or its `lake.json` is damaged."""


class LakeNotFound(LakeError):
    """The folder does not exist or is empty."""


class LakeTooNew(LakeError):
    """The lake was made by a later version of this project."""


class LakeNotWritable(LakeError):
    """The path can't be written."""


class UnsafeStore(LakeError):
    """The store has no atomic conditional put, so concurrent commits would be lost silently."""


class TableNotFound(ImagenError):
    """The lake has no table of that name yet."""


class DatasetNotFound(ImagenError):
    """No dataset of that name was published."""


class DatasetVersionNotFound(ImagenError):
    """The dataset, or another table, has no version of that number."""


class PairNotFound(ImagenError):
    """No pair in the lake has that URL or id."""


class ReaderError(ImagenError):
    """A dataset version can't be read as asked."""


class ColumnNotFound(ReaderError):
    """The dataset version has no such column."""


class StateMismatch(ReaderError):
    """A reader's state belongs to another version, order, rank or worker."""


class SampleDamaged(ReaderError):
    """A published picture can't be decoded."""


class ExportError(ImagenError):
    """An export can't be written to the folder, or it stopped before it was complete."""


class GateClosed(ImagenError):
    """The selected rows fail a gate (a publication check) of the recipe. Nothing was published."""


class ModelError(ImagenError):
    """The files of a model are missing or can't be loaded."""


class WorldError(ImagenError):
    """A folder is not a built-in world, or can't become one."""


class SettingsError(ImagenError):
    """An environment variable has an invalid value."""


class EngineUnavailable(ImagenError):
    """The engine that should run the shards is not installed or not reachable, or has no free resources."""


class WorkerDied(ImagenError):
    """A worker process was killed repeatedly on the same shard, or hung on it."""


class ServerError(ImagenError):
    """The server that tracks the runs did not start."""
