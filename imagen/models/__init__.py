"""Trained models: loading and saving folders, the tables of models, decisions and approvals.

Training is in imagen/train, measuring in imagen/evaluate. Start with `model.py` (`Imagen`), then `table.py`.
"""
