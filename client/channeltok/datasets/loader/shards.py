"""The token shards of a folder: what their footers say, and their row groups."""

import json
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from channeltok.datasets.errors import SourceError

READERS = 16  # files read at once
REMOTE_READERS = 64
FOOTER_BYTES = 2**16  # a remote file is read in pieces of at least so many
WHOLE_FILE_BYTES = 8 * 2**20  # remote files up to this size are fetched by one request
METADATA_KEY = b"channeltok"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Footer:
    """What the footer of a token shard says.

    Attributes:
        group_rows: rows of each row group.
        columns: names of the columns.
        list_size: number of tokens of every row; None where it differs.
        largest_k: the most tokens of a row; 0 without rows.
        description: how the tokens were made, see `Description`; empty for older shards.
    """

    group_rows: tuple[int, ...]
    columns: tuple[str, ...]
    list_size: int | None
    largest_k: int
    description: dict[str, Any]


class TokenShards:
    """The Parquet files below a path or URL, sorted by path. Can be pickled, and used after a fork.

    Attributes:
        paths: of the shards, as the file system knows them.
        remote: whether they are on another machine, as far as the file system tells.
    """

    def __init__(self, url: str) -> None:
        """Raises SourceError if there are none."""
        self._url, self._pid = url, os.getpid()
        self._fs, self._root = fsspec.url_to_fs(url)
        self.remote = not isinstance(self._fs, LocalFileSystem)
        found = self._fs.find(self._root, detail=True)
        self._sizes = {
            path: facts.get("size") for path, facts in found.items() if path.endswith(".parquet")
        }
        self.paths = sorted(self._sizes)
        if not self.paths:
            tars = any(path.endswith(".tar") for path in found)
            raise SourceError(
                f"{url}: no token shards (*.parquet) there"
                + (", but tars: the package webdataset reads those" if tars else "")
            )

    @cached_property
    def footers(self) -> list[Footer]:
        """The footer of each shard; read once, many at a time."""
        return self.map(self.footer)

    def footer(self, path: str) -> Footer:
        """The footer of one shard. Raises SourceError if it is no token shard."""
        with self._open(path) as file:
            return _footer(path, file.metadata, file.schema_arrow)

    def schema(self, path: str) -> Any:
        """The Arrow schema of one shard."""
        with self._open(path) as file:
            return file.schema_arrow

    def read(self, path: str, columns: Sequence[str], group: int | None = None) -> Any:
        """Columns of a shard, or of one of its row groups, as an Arrow table."""
        with self._open(path, whole="tokens" in columns) as file:
            if group is None:
                return file.read(columns=[*columns], use_threads=False)
            return file.read_row_group(group, columns=[*columns], use_threads=False)

    def class_names(self) -> list[str]:
        """Names of all classes by their numbers, as the source had them; [] without one list."""
        folder = posixpath.join(self._root, ".channeltok", "classes")
        fs = self._file_system()
        try:
            files = fs.find(folder)
        except (OSError, ValueError):  # a single file has no folder
            return []
        return json.loads(fs.cat_file(files[0])) if len(files) == 1 else []

    def map(self, function: Callable[[str], Result]) -> list[Result]:
        """Call a function with the path of each shard, in threads."""
        threads = REMOTE_READERS if self.remote else READERS
        with ThreadPoolExecutor(min(threads, len(self.paths))) as pool:
            return [*pool.map(function, self.paths)]

    def name_of(self, path: str) -> str:
        """The name of the source shard that a token shard was made of."""
        return posixpath.relpath(path, self._root).removesuffix(".parquet")

    @contextmanager
    def _open(self, path: str, whole: bool = False) -> Iterator[pq.ParquetFile]:
        """whole: most of the file will be read."""
        with ExitStack() as stack:
            source: Any = path
            if self.remote and whole and (self._sizes[path] or WHOLE_FILE_BYTES) < WHOLE_FILE_BYTES:
                source = pa.BufferReader(self._file_system().cat_file(path))
            elif self.remote:
                file = self._file_system().open(path, "rb", block_size=FOOTER_BYTES)
                source = stack.enter_context(file)
            try:
                yield stack.enter_context(pq.ParquetFile(source, pre_buffer=self.remote))
            except (pa.ArrowException, OSError) as error:
                if getattr(error, "errno", None) is not None:
                    raise
                # Arrow's OSError without a number is about the content.
                raise SourceError(f"{path}: the token shard is damaged: {error}") from error

    def _file_system(self) -> Any:
        if self._pid != os.getpid():  # connections do not survive a fork
            self._fs, self._pid = fsspec.url_to_fs(self._url)[0], os.getpid()
        return self._fs


def _footer(path: str, metadata: Any, schema: Any) -> Footer:
    if not {"key", "tokens", "k", "label"} <= set(schema.names):
        raise SourceError(f"{path}: no token shard: it has the columns {', '.join(schema.names)}")
    kind = schema.field("tokens").type
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    stored = (schema.metadata or {}).get(METADATA_KEY)
    return Footer(
        tuple(group.num_rows for group in groups),
        tuple(schema.names),
        kind.list_size if pa.types.is_fixed_size_list(kind) else None,
        max((_largest_k(group) for group in groups if group.num_rows), default=0),
        {} if stored is None else json.loads(stored),
    )


def _largest_k(group: Any) -> int:
    columns = map(group.column, range(group.num_columns))
    k = next(column for column in columns if column.path_in_schema == "k")
    return int(k.statistics.max)
