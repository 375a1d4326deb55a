"""Trained models: loading and saving folders, the tables of models, decisions and approvals.

Not here: training them or measuring them. Start with `model.py` (`Imagen`), then `table.py`.
"""
