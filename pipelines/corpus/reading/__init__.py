"""Reading source files: every format, compression and range as batches of documents and rejects."""
