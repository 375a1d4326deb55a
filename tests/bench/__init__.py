"""Benchmarks: `make bench` runs them all, `python -m tests.bench quality` one. Each row has its bound beside it."""
