"""The one exception whose message is meant for the person at the keyboard."""

from base.credentials import hide

_STORAGES = frozenset({"aiohttp", "azure", "botocore", "gcsfs", "google", "httpx", "huggingface_hub"})


class UserError(Exception):
    """A mistake the person can mend: the message is one clear sentence and commands exit with code 2."""

    def __init__(self, message: str) -> None:
        """The message shows no credentials of URLs in it."""
        super().__init__(hide(message))


def mistake(error: BaseException) -> str | None:
    """The sentence for the person of a UserError, or of what a storage's own package raises; None for others.

    Those packages raise (no endpoint, no credentials, a refusal) mostly what is no OSError.
    """
    if isinstance(error, UserError):
        return str(error)
    if type(error).__module__.partition(".")[0] not in _STORAGES:
        return None
    return hide(f"a storage cannot be used: {type(error).__name__}: {error}")
