"""What a person reads about a version: report page, dataset card, histograms, examples, charts.

Figures come from tables; nothing here decides what is kept. Start with `summary.py`, then `report.py`.
"""
