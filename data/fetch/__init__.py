"""Fetches pictures safely from the open internet, and reads pictures that a source stores together with its pairs.

Belongs here: HTTP requests, allowed addresses, robots.txt, rate limits, blocklist and hash lists, the download stage.
Does not belong here: decoding pictures (data/pictures). Start with `download.py`, the stage; then read `fetcher.py`,
which fetches one URL.
"""
