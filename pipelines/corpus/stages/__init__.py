"""The stages of a corpus build, one module each."""
