"""Where pairs come from: files of URLs and captions, tars and Parquet with pictures, and ingesting them.

A format is a file here. Not here: fetching the pictures. Start with `sources.py`, then `ingest.py`.
"""
