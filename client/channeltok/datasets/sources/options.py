"""What is read of a source."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SourceOptions:
    """What is read of a source.

    Attributes:
        keep: names of columns that come with each image: of a Parquet file, of a metadata file, or
            the suffixes and JSON fields of a WebDataset sample.
        image_column: the column with the images, or the suffix of the images in tars; None for one
            of the usual names.
        label_column: the column with the classes; None for one of the usual names.
        key_column: the column with the keys; None for one of the usual names.
        whole_files: make one shard of each file, however large.
        exclude: a path or URL inside the source that is no part of it, such as the destination.
    """

    keep: tuple[str, ...] = ()
    image_column: str | None = None
    label_column: str | None = None
    key_column: str | None = None
    whole_files: bool = False
    exclude: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.keep, str):
            raise ValueError(f"keep is several names, such as ({self.keep!r},)")
        object.__setattr__(self, "keep", tuple(dict.fromkeys(self.keep)))

    def names(self) -> list[str]:
        """Names of all columns that are read, but that of the images."""
        more = [name for name in (self.label_column, self.key_column) if name]
        return list(dict.fromkeys([*self.keep, *more]))

    def manifest(self) -> dict[str, Any]:
        """Its fields as JSON values, but `exclude`, which changes no shard."""
        fields = {**asdict(self), "keep": list(self.keep)}
        del fields["exclude"]
        return fields


DEFAULTS = SourceOptions()
