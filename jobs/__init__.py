"""One module a command: arguments, checks, a session, one pipeline, what a person wants to know of it.

cli.py lists the commands, checks.py what they look for before they start, session.py what they share.
"""
