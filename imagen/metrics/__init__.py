"""Metrics of generated pictures: prompt suites, feature distances, question answering, bootstrap intervals.

This folder has functions and scorers only; imagen/evaluate runs evaluations. Start with `suites.py`.
"""
