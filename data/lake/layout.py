"""Where things lie in a lake beside the rows of its tables: names of files and folders, each defined once."""

MARKER = "lake.json"
PROBE_PREFIX = "_probe-"  # a folder that one who was killed while making a lake may have left
DELTA_LOG = "_delta_log"

CARD, REPORT, HISTOGRAMS = "README.md", "report.html", "histograms.png"
LAST_BUILD = "built.json"  # when a build came to a good end the last time

FORGET_NOTES = (
    "forgotten"  # folder of a note for each forgetting: which files were written again, and what they hash to
)
MODELS_TABLE = "models"  # the table of trained models, which the model room writes
TRAINING_FOLDER, TRAINING_RECORD = "training", "training.json"  # its folders
GRIDS_FOLDER, GRIDS_PAGE = "grids", "report.html"  # what shows samples in them
