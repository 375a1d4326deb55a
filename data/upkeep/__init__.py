"""Explaining, checking and cleaning what a lake holds: diff of versions, history of a pair, verify, forget, vacuum.

Not here: building (data/build). Start with `diff.py`.
"""
