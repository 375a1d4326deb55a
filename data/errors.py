"""What can go wrong that a person can act on. Each message says what happened, to which thing, and what to do.

ImagenError
├── RecipeError            a recipe that can't be read or does not validate
├── SourceError            a source that is empty, lacks a column, or can't be read
│   └── SourceUnreachable  its store doesn't answer: another try may do
├── LakeError
│   ├── NotALake           the folder exists and is no lake
│   ├── LakeNotFound       nothing is there
│   ├── LakeTooNew         made by a later version of this project
│   ├── LakeNotWritable    the path can't be written
│   └── UnsafeStore        the store would lose commits silently
├── TableNotFound          the lake has no such table yet
├── DatasetNotFound        no dataset of that name was published
├── DatasetVersionNotFound
├── PairNotFound           neither a URL nor an id that the lake knows
├── ReaderError
│   ├── ColumnNotFound     the dataset version has no such column
│   ├── StateMismatch      a reader's state that is not of this version, order or place
│   └── SampleDamaged      a published picture that can't be decoded
├── ExportError            a folder that can't take an export, or one that broke off
├── GateClosed             what was selected does not pass a gate of its recipe; nothing was published
├── ModelError             a model's files are missing or can't be loaded
├── WorldError             a folder is no built-in world, or can't become one
├── SettingsError          a variable of the environment has a value that it can't have
├── EngineNotThere         what should run the shards is not installed, not reached, or has no room
├── WorkerDied             a worker process was killed again and again on the same shard
└── ServerError            the server that tracks the runs did not start
"""


class ImagenError(Exception):
    """The root of the tree: whoever catches this catches all that a user can mend."""

    code = 2  # with which the command ends


class RecipeError(ImagenError):
    pass


class SourceError(ImagenError):
    pass


class SourceUnreachable(SourceError):
    pass


class LakeError(ImagenError):
    pass


class NotALake(LakeError):
    pass


class LakeNotFound(LakeError):
    pass


class LakeTooNew(LakeError):
    pass


class LakeNotWritable(LakeError):
    pass


class UnsafeStore(LakeError):
    pass


class TableNotFound(ImagenError):
    pass


class DatasetNotFound(ImagenError):
    pass


class DatasetVersionNotFound(ImagenError):
    pass


class PairNotFound(ImagenError):
    pass


class ReaderError(ImagenError):
    pass


class ColumnNotFound(ReaderError):
    pass


class StateMismatch(ReaderError):
    pass


class SampleDamaged(ReaderError):
    pass


class ExportError(ImagenError):
    pass


class GateClosed(ImagenError):
    pass


class ModelError(ImagenError):
    pass


class WorldError(ImagenError):
    pass


class SettingsError(ImagenError):
    pass


class EngineUnavailable(ImagenError):
    pass


class WorkerDied(ImagenError):
    pass


class ServerError(ImagenError):
    pass
