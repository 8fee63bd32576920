"""Token shards back to image files."""

import posixpath
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from channeltok._messages import ImageFormat
from channeltok.datasets.durable_files import write_error
from channeltok.datasets.errors import DestinationError, SourceError
from channeltok.datasets.explained import explained
from channeltok.datasets.file_names import check_names, file_name
from channeltok.datasets.read_ahead import read_ahead
from channeltok.datasets.token_dataset import TokenDataset
from channeltok.errors import ChannelTokError
from channeltok.fit import Aspect
from channeltok.tokens import Tokens

WRITES_AT_ONCE = 16


class Decoder(Protocol):
    """Decodes tokens: `channeltok.Client`, or an engine in this process."""

    def decode_stream(
        self,
        tokens: Iterable[Tokens | bytes],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
        *,
        aspect: Aspect | None = None,
    ) -> Generator[bytes | ChannelTokError, None, None]:
        """Yield the image or the error of each token sequence, in order."""
        ...


def detokenize(
    source: str,
    folder: str | Path,
    decoder: Decoder,
    *,
    k: int | None = None,
    format: ImageFormat = "jpeg",
    square: bool = False,
) -> int:
    """Decode every row of the token shards at `source` to an image file of its own.

    An image that was padded gets its own proportions back.

    Args:
        source: Parquet output of `tokenize`, a path or a URL.
        folder: a path or a URL, where KEY.jpg, KEY.png or KEY.webp is written, under the name that
            `file_names.file_name` gives to a key that is no path; existing files are overwritten.
        decoder: a client, or an engine in this process.
        k: number of tokens to decode; None for all.
        format: format of the images.
        square: write the square as it was decoded, with the bands of padded images.

    Returns:
        The number of images, which is that of the rows.

    Raises:
        SourceError: there are no token shards, or two rows would have one file; then nothing is
            written.
        ValueError: the shards do not have k tokens.
        ChannelTokError: an image cannot be decoded.
        DestinationError: a file cannot be written.
        OSError: a shard cannot be read.
    """
    with explained(SourceError, source):
        dataset = TokenDataset(source, k)
    suffix = f".{'jpg' if format == 'jpeg' else format}"

    def names() -> Iterator[tuple[str, list[str]]]:
        for shard in dataset.shards:
            keys = dataset.columns_of(shard, ["key"])["key"]
            yield shard, [file_name(key) + suffix for key in keys]

    check_names(names(), names())
    keys: deque[str] = deque()  # of the rows that are sent and not yet decoded

    def rows() -> Generator[Tokens, None, None]:
        for key, tokens in dataset.rows():
            keys.append(key)
            yield tokens

    def images() -> Iterator[tuple[str, bytes]]:
        for image in decoder.decode_stream(rows(), format, aspect=(1, 1) if square else None):
            key = keys.popleft()
            if isinstance(image, ChannelTokError):
                raise type(image)(image.code, f"{key}: {image.message}", image.retry_after)
            yield file_name(key) + suffix, image

    files = _ImageFiles(str(folder))
    return sum(1 for _ in read_ahead(images(), files.write, files.at_once))


class _ImageFiles:
    """Writes files below a folder, at a path or a URL."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.url_to_fs(url)
        self._local = isinstance(self._fs, LocalFileSystem)
        self.at_once = 1  # not every file system may be used by several threads
        if self._local or self._fs.async_impl:
            self.at_once = WRITES_AT_ONCE
        self._folders: set[str] = set()

    def write(self, file: tuple[str, bytes]) -> None:
        """Write a file, given as its path in the folder and its bytes. Raises DestinationError."""
        name, content = file
        path = posixpath.join(self._root, name)
        try:
            self._make(posixpath.dirname(path))
            if self._local:
                _write_local(path, content)
            else:
                self._fs.pipe_file(path, content)
        except Exception as error:
            where = path if self._local else self._fs.unstrip_protocol(path)
            raise DestinationError(str(write_error(where, error))) from error

    def _make(self, folder: str) -> None:
        if folder not in self._folders:
            self._fs.makedirs(folder, exist_ok=True)
            self._folders.add(folder)


def _write_local(path: str, content: bytes) -> None:
    try:
        Path(path).write_bytes(content)
    except BaseException:
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)  # half of an image is none
        raise
