"""Decides which pairs a dataset keeps, and records all reasons to drop the others.

A fact is a value of a pair that a criterion can use: a score, a property of the picture or the caption, or a column of
the source. Belongs here: SQL over facts. Does not belong here: computing facts (data/scorers). Nothing here uses the
network or reads pictures, except for the files of evaluation sets. Start with `criteria.py`, then `selection.py`.
"""
