"""The platform: run it on this machine, deploy to a server, show status and metrics.

Start with `up.py`, then `deploy.py`.
"""
