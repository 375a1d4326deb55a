"""Running evaluations: generate pictures, measure them, store the figures, compare models, rank them, sweep sampling.

The metrics themselves are in imagen/metrics, and the promotion decision is in imagen/champion. Start with
`evaluation.py`.
"""
