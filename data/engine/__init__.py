"""How work runs: plan, map, commit, and the engines that map shards over workers.

Belongs here: the protocol of a stage, the process pool, Ray, progress. Does not belong here: any particular stage.
Start with `stage.py`, then `pool.py`.
"""
