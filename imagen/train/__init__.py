"""Training a cascade: batches, loss, the run of one stage, checkpoints, several processes.

Trained models are in imagen/models. Start with `train.py`, then `stage_run.py`.
"""
