"""The configurations of trainings, evaluations and gates: pydantic models, presets, YAML.

Values only. Not here: code that trains or measures. Start with `training.py`.
"""
