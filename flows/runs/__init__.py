"""The flows: each file is one flow, and `stages.py` runs a data stage as a flow of task batches.

They never import the terminal. Start with `rebuild.py`.
"""
