"""Explains, checks and cleans the content of a lake: diff of versions, history of a pair, verify, forget, vacuum.

Not here: building (data/build). Start with `diff.py`.
"""
