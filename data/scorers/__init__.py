"""What can be said of pictures and captions. A file is a subject, each with a small class.

Belongs here: scorers, the stages that run them, and the weights that they load. Not: thresholds (data/select).
Start with `scorer.py`; docs/scorers.md shows how to add one.
"""
