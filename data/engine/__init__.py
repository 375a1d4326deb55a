"""Runs the stages of the pipeline in three steps (plan, map, commit), and the engines that send shards to workers.

Belongs here: the protocol of a stage, the process pool, Ray, progress. Does not belong here: any particular stage.
Start with `stage.py`, then `pool.py`.
"""
