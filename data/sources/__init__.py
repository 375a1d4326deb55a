"""Where pairs come from: files of URLs and captions, tars and Parquet files with pictures, and their ingestion.

Each file format is a file here. Does not belong here: fetching the pictures (data/fetch). Start with `sources.py`,
then `ingest.py`.
"""
