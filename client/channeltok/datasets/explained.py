"""One class of error for what file systems raise: each has classes of its own, not all OSErrors."""

from collections.abc import Iterator
from contextlib import contextmanager

from channeltok.datasets.errors import DatasetError
from channeltok.datasets.retries import describe
from channeltok.errors import ChannelTokError


@contextmanager
def explained(kind: type[DatasetError], where: str) -> Iterator[None]:
    """Raise errors of reading `where` as `kind`, with its name."""
    try:
        yield
    except (DatasetError, ChannelTokError, ValueError):
        raise
    except Exception as error:
        raise kind(f"{where} cannot be read: {describe(error)}") from error
