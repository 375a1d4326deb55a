"""Publishes kept pairs as a dataset version, checks the gates that can prevent it, and lists published versions.

Not here: the pages that describe a version (data/report). Start with `publish.py`.
"""
