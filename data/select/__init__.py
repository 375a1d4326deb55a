"""Which pairs are kept, and every reason why not: criteria, thresholds, the funnel.

SQL over scores; nothing here touches a pixel or the network. Start with `criteria.py`, then `selection.py`.
"""
