"""Which model is used: the gate, promotion, when to retrain, the next step after an interruption, the report page.

Start with `gate.py`, then `promote.py`.
"""
