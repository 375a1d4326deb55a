"""Exporting a dataset version for use elsewhere: webdataset tars, Parquet files, a Hugging Face dataset folder.

Not here: publishing inside the lake (data/publish). Start with `export.py`.
"""
