"""Exact and MinHash deduplication over Arrow columns; knows nothing of Ray, pipelines or models.

Words that mean one thing here: a *ref* names a document in 64 bits, a *part* is a documents file, a *group*
is some parts whose documents are asked about together (all three: catalog.py), and a *run* is a parquet file
of one writer, sorted, with a row group for each partition (runs.py). A *line* is what stands between line
feeds of a text (lines.py).
"""
