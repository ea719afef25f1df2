"""The one exception whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake the person can mend: the message is one clear sentence and commands exit with code 2."""
