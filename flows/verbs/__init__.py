"""The verbs of the `imagen` command, by what they are about. Each exists in Python too."""
