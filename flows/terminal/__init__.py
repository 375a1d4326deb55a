"""Output in a terminal: progress, tables, shared options, help panels.

Flows never import this folder; verbs do. Start with `options.py`.
"""
