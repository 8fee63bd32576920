"""Errors of dataset functions. Errors of the engines are `channeltok.ChannelTokError`s."""


class DatasetError(Exception):
    """Base of the errors below; the message says what is wrong and where."""


class SourceError(DatasetError):
    """The source does not exist, holds no images, or one of its shards cannot be read."""


class DestinationMismatch(DatasetError):
    """The destination holds tokens that were made with other parameters, or foreign files."""


class DestinationError(DatasetError):
    """The destination cannot be written, or read: it is full, gone or closed to us.

    Finished shards stay; the same call continues once there is room.
    """


class TooManyRejects(DatasetError):
    """More images were rejected than `max_rejects` allows.

    Finished shards stay; a run with a higher limit continues from there.
    """


class EngineGone(DatasetError):
    """The engine answered nobody for longer than `patience`.

    Finished shards stay; the same call continues once it is back.
    """


class ShardFailed(DatasetError):
    """Some shards could not be finished; all others are. The next run tries them again."""
