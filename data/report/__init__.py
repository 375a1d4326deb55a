"""Makes pages and pictures about a dataset version: report, dataset card, histograms, example rows, charts.

Everything is read from the lake's tables. Nothing here decides which pairs are kept. Start with `summary.py`, then
`report.py`.
"""
