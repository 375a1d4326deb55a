"""The cascade: U-Nets, diffusion, sampling and the pipeline, the files that are copied into a model's folder.

So nothing here imports code of this project from outside this folder. Start with `pipeline.py`, then `unet.py`.
"""
