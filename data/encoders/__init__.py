"""Text encoders (T5, CLIP) and the stage that embeds every kept caption once.

Not here: vectors of pictures, which are scores. Start with `settings.py`, then `embed.py`.
"""
