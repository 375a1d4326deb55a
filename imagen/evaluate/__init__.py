"""Running evaluations: generate, measure, store, compare, rank, sweep.

Not here: the metrics themselves (imagen/metrics) and the decision (imagen/champion). Start with `evaluation.py`.
"""
