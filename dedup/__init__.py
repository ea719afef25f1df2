"""Exact and MinHash deduplication over Arrow columns; knows nothing of Ray, pipelines or models."""
