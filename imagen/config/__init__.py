"""The configurations of trainings, evaluations and gates: pydantic models, presets, YAML.

This folder has values only. Code that trains or measures does not belong here. Start with `training.py`.
"""
