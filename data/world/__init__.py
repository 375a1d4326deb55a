"""The built-in world: pictures of coloured shapes with true captions, an origin server that misbehaves on purpose,
and tiny models trained on it.

No stage reads its labels, and nothing else in data/ imports it but for the models' paths. Start with `scene.py`.
"""
