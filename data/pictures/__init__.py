"""Functions on pictures: checking, resizing, perceptual hashes, near-duplicates, contact sheets. None touches a lake.

Belongs here: functions of bytes, pixels and vectors. Does not belong here: fetching pictures, scoring them with models.
Start with `prepare.py`.
"""
