"""The built-in world: synthetic pictures of coloured shapes with captions, and tiny models trained on such pictures.

The data has deliberate faults, and so has the server that the pictures are fetched from. The world lets tests and
`imagen demo` run without a network. No stage reads the world's labels, and the rest of data/ uses only the folders of
its models. Start with `scene.py`.
"""
