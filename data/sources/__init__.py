"""Reads pairs from sources (files of URLs and captions, tars and Parquet files with pictures) into the lake.

Each file format has its own module. Does not belong here: fetching the pictures (data/fetch). Start with `sources.py`,
then `ingest.py`.
"""
