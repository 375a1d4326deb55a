"""Training a cascade: batches, loss, the run of one stage, checkpoints, several processes.

Not here: what a trained model is (imagen/models). Start with `train.py`, then `stage_run.py`.
"""
