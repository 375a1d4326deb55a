"""Writing a version for others: webdataset tars, Parquet, a Hugging Face folder.

Not here: publishing inside the lake (data/publish). Start with `export.py`.
"""
