"""Pictures as pixels: decoding and resizing them safely, hashes, near duplicates, squares, contact sheets.

Belongs here: functions of pictures and arrays. Not: fetching, tables, scorers. Start with `prepare.py`.
"""
