"""The names of files and folders in a lake beside its tables. Each is defined once, here."""

MARKER = "lake.json"
PROBE_PREFIX = "_probe-"  # of folders that a process killed while making a lake may have left
DELTA_LOG = "_delta_log"

CARD, REPORT, HISTOGRAMS = "README.md", "report.html", "histograms.png"
LAST_BUILD = "built.json"  # the time of the last successful build

FORGET_NOTES = "forgotten"  # folder: for each `forget` a note of the files it rewrote and their hashes
MODELS_TABLE = "models"  # the table of trained models
TRAINING_FOLDER, TRAINING_RECORD = "training", "training.json"
GRIDS_FOLDER, GRIDS_PAGE = "grids", "report.html"  # sample grids of a training, and the page that shows them
