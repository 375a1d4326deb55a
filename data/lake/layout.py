"""Where things lie in a lake beside the rows of its tables: names of files and folders, each defined once."""

MARKER = "lake.json"
PROBE = "_probe-"  # a folder that one who was killed while making a lake may have left
LOG = "_delta_log"

CARD, REPORT, HISTOGRAMS = "README.md", "report.html", "histograms.png"
BUILT = "built.json"  # when a build came to a good end the last time

NOTES = "forgotten"  # folder of a note for each forgetting: which files were written again, and what they hash to
MODELS = "models"  # the table of trained models, which the model room writes
TRAININGS, ABOUT = "training", "training.json"  # its folders
GRIDS, PAGE = "grids", "report.html"  # what shows samples in them
