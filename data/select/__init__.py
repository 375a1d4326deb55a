"""Which pairs a dataset keeps, and all reasons why the others are dropped: criteria, verdicts, thresholds, the funnel.

Belongs here: SQL over facts. Not: computing facts (data/scorers); nothing here reads a picture or the network, but the
pictures of evaluation sets. Start with `criteria.py`, then `selection.py`.
"""
