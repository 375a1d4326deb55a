"""Fetching pictures from the open internet, safely, and from archives that carry them.

Belongs here: requests, addresses, robots, limits, block and hash lists, the download stage. Not: decoding pixels.
Start with `download.py` (the stage), then `fetcher.py` (one URL).
"""
