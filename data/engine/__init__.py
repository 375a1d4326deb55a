"""How work is run: plan, map, commit, and the engines that map shards over workers.

Belongs here: stages as a protocol, process pools, Ray, progress. Not: any one stage. Start with `stage.py`.
"""
