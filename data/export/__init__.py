"""Exports a dataset version for use elsewhere: as webdataset tars, Parquet files, or a Hugging Face dataset folder.

Not here: publishing inside the lake (data/publish). Start with `export.py`.
"""
