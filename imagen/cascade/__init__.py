"""The cascade: U-Nets, diffusion, sampling and the pipeline, exactly the files that a model's folder carries.

So nothing here imports anything of ours outside this folder. Start with `pipeline.py`, then `unet.py`.
"""
