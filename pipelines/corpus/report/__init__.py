"""The HTML report of a corpus version."""
