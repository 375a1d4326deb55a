"""What is measured on generated pictures: suites of prompts, distances, question answering, intervals.

Functions and scorers; running an evaluation is in imagen/evaluate. Start with `suites.py`.
"""
