"""What the release 0.1.0 left on users' disks opens unchanged.

Start with `test_release.py`. `make_release.py`, `release_answers.py` and `written/` are of that release: they keep its
names and import paths when those of today change.
"""
