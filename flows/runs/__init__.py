"""The flows: each file is one flow, and `stages.py` runs a data stage as a flow of task batches.

Flows never import flows/terminal. Start with `rebuild.py`.
"""
