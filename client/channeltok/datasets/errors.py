"""Errors of dataset functions. Errors of the engines are `channeltok.ChannelTokError`s."""


class DatasetError(Exception):
    """Base of the errors below; the message says what is wrong and where."""


class SourceError(DatasetError):
    """The source does not exist, holds no images, or one of its shards cannot be read."""


class DestinationMismatch(DatasetError):
    """The destination holds tokens that were made with other parameters, or foreign files."""


class TooManyRejects(DatasetError):
    """More images were rejected than `max_rejects` allows.

    Finished shards stay; a run with a higher limit continues from there.
    """


class ShardFailed(DatasetError):
    """Some shards could not be finished; all others are. The next run tries them again."""
