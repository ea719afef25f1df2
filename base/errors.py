"""The one exception whose message is meant for the person at the keyboard."""

from base.credentials import hide


class UserError(Exception):
    """A mistake the person can mend: the message is one clear sentence and commands exit with code 2."""

    def __init__(self, message: str) -> None:
        """The message shows no credentials of URLs in it."""
        super().__init__(hide(message))
