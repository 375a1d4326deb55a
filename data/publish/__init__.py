"""Kept pairs become samples of a dataset version: publishing, gates, and the versions that were published.

Not here: pages that describe a version (data/report). Start with `publish.py`.
"""
