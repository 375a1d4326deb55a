"""Running evaluations: generate pictures, measure them, store the figures, compare models, rank them, sweep sampling.

Not here: the metrics themselves (imagen/metrics) and the decision (imagen/champion). Start with `evaluation.py`.
"""
