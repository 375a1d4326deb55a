"""Pages and pictures about a dataset version: report, dataset card, histograms, example rows, charts.

Everything is read from the lake's tables; nothing here decides what is kept. Start with `summary.py`, then `report.py`.
"""
