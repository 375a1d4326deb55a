"""The platform: starting it on this machine, deploying, its status and metrics.

Start with `up.py`, then `deploy.py`.
"""
