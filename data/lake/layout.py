"""Defines the names of files and folders in a lake that are not tables."""

MARKER = "lake.json"
PROBE_PREFIX = "_probe-"  # begins the names of folders that are left if a process is killed while making a lake
DELTA_LOG = "_delta_log"

CARD, REPORT, HISTOGRAMS = "README.md", "report.html", "histograms.png"
LAST_BUILD = "built.json"  # the time of the last successful build

FORGET_NOTES = "forgotten"  # folder with a note for each `forget`: the files that it rewrote, and their hashes
MODELS_TABLE = "models"  # the table of trained models
TRAINING_FOLDER, TRAINING_RECORD = "training", "training.json"
GRIDS_FOLDER, GRIDS_PAGE = "grids", "report.html"  # sample grids of a training, and the page that shows them
