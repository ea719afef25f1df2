"""From source files to corpus versions."""
