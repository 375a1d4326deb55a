"""The verbs of the `imagen` command, by subject. Each exists in Python too.

A verb parses options, calls one function and shows the result; heavy modules are imported inside it.
Start with `build.py`.
"""
