"""Functions on pictures: checking, resizing, perceptual hashes, near-duplicates, contact sheets.

Belongs here: functions that take bytes, pixels or vectors. None of them reads or writes a lake. Does not belong here:
fetching pictures, or scoring them with models.
Start with `prepare.py`.
"""
