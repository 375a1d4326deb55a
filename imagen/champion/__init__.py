"""Choose the model that is used: gate, promotion, retraining policy, recovery after an interruption, report page.

Start with `gate.py`, then `promote.py`.
"""
