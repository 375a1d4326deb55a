"""The built-in world: pictures of coloured shapes with captions, deliberate faults and a faulty origin server, and tiny
models trained on such pictures. It lets tests and `imagen demo` run without a network.

No stage reads the world's labels, and the rest of data/ uses only its models' folders. Start with `scene.py`.
"""
