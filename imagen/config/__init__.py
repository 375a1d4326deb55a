"""What a training, an evaluation and a gate are configured by: pydantic models, presets, YAML.

Values only. Not here: code that trains or measures. Start with `training.py`.
"""
