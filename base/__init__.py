"""What every folder may use: files on fsspec URLs, errors a person can mend, settings."""
