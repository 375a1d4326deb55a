"""Which model is used: the gate, promotion, when to retrain, what was left undone, the report page.

Start with `gate.py`, then `promote.py`.
"""
