"""One module a command: parse arguments, load the configuration, call one pipeline, print the outcome."""
