"""The one exception whose message is meant for the person at the keyboard."""

from base.credentials import hide

_STORAGES = frozenset({"aiohttp", "azure", "botocore", "gcsfs", "google", "httpx", "huggingface_hub"})


class UserError(Exception):
    """A mistake the person can mend: the message is one clear sentence and commands exit with code 2."""

    def __init__(self, message: str) -> None:
        """The message shows no credentials of URLs in it."""
        super().__init__(hide(message))


class StorageError(OSError):
    """A storage that is not on this machine cannot be used now; the message is one sentence, as UserError's.

    What is to be tried again may catch it, so it is no mistake of a person's.
    """

    def __init__(self, message: str) -> None:
        """The message shows no credentials of URLs in it."""
        super().__init__(hide(message))


def is_of_storage(error: BaseException) -> bool:
    """Whether a storage's package raises it (no endpoint, no credentials, a refusal): mostly no OSError."""
    return type(error).__module__.partition(".")[0] in _STORAGES


def mistake(error: BaseException) -> str | None:
    """The sentence for the person of a UserError, or of a storage that cannot be used; None for others."""
    if isinstance(error, UserError | StorageError):
        return str(error)
    return (
        hide(f"a storage cannot be used: {type(error).__name__}: {error}") if is_of_storage(error) else None
    )
