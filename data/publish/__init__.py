"""Publishing kept pairs as a dataset version, the gates that can stop it, and the list of published versions.

Not here: the pages that describe a version (data/report). Start with `publish.py`.
"""
