"""Fetching pictures from the open internet, safely, and reading those that came with their pairs.

Belongs here: HTTP requests, allowed addresses, robots.txt, rate limits, blocklist and hash lists, the download stage.
Not: decoding pictures (data/pictures). Start with `download.py`, the stage; then `fetcher.py`, one URL.
"""
