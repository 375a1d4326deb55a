"""Text encoders (T5, CLIP), and the stage that embeds each kept caption once.

Belongs here: encoders, their settings, reading stored embeddings. Does not belong here: vectors of pictures
(data/scorers).
Start with `settings.py`, then `embed.py`, the stage.
"""
