"""Sections of the corpus report: each a query, a dataclass of what is shown, and a template part."""
