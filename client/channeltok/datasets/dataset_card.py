"""The card of a dataset of tokens: README.md with the metadata that the hub reads."""

from collections.abc import Mapping
from typing import Any

import datasets
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

_COLUMNS = {
    "key": "unique name of the row",
    "tokens": "ids, coarse to fine: the first j of them are the tokens at budget j",
    "k": "number of tokens",
    "tokenizer": "name of the tokenizer",
    "fingerprint": "training of the tokenizer",
    "source": "file, or folder, with the original image",
    "offset": "place of the image there",
    "label": "class",
    "width": "of the whole image, in pixels, upright",
    "height": "of the whole image, in pixels, upright",
    "left": "first column that the tokenizer saw",
    "top": "first row that the tokenizer saw",
    "right": "end of the columns that the tokenizer saw",
    "bottom": "end of the rows that the tokenizer saw",
    "view": "number of the random view",
    "flipped": "whether the view is mirrored",
    "ssim": "SSIM of the decoded image",
    "psnr": "PSNR of the decoded image, in dB",
}
_FACTS = {
    "tokenizer": "tokenizer",
    "fingerprint": "fingerprint of its training",
    "vocab_size": "number of different ids",
    "image_size": "side of the image that is tokenized, in pixels",
    "k": "tokens of each image",
    "quality": "quality that chose the number of tokens",
    "fit": "part of the image that is seen",
    "views": "random views of each image",
}
_SIZES = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B"]


def dataset_card(
    name: str,
    license: str | None,
    features: datasets.Features,
    sizes: Mapping[str, tuple[int, int]],
    description: Mapping[str, Any],
) -> str:
    """The text of README.md.

    Args:
        name: title.
        license: identifier of the hub; None for none.
        features: the columns.
        sizes: rows of each split, and bytes of them in memory.
        description: how the tokens were made, see `TokenDataset.description`.
    """
    data = DatasetCardData(
        license=license,
        pretty_name=name,
        tags=["image-tokens", "channeltok"],
        size_categories=[_size(sum(rows for rows, _ in sizes.values()))],
    )
    splits = SplitDict(
        {split: SplitInfo(split, nbytes, rows) for split, (rows, nbytes) in sizes.items()}
    )
    info = datasets.DatasetInfo(features=features, splits=splits)
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in sizes]
    MetadataConfigs({"default": {"data_files": files}}).to_dataset_card_data(data)
    facts = [
        f"- {text}: {description[fact]}"
        for fact, text in _FACTS.items()
        if description.get(fact) not in (None, 0)
    ]
    columns = [
        f"| `{column}` | {_COLUMNS.get(column, 'as it came with the image')} |"
        for column in features
    ]
    counts = [f"- {split}: {rows:,} rows" for split, (rows, _) in sizes.items()]
    return "\n".join(
        [
            f"---\n{data.to_yaml().strip()}\n---",
            f"# {name}",
            "Images as token ids, made with ChannelTok.\n",
            *counts,
            *facts,
            "",
            "| column | meaning |",
            "|---|---|",
            *columns,
            "",
            "A prefix of the tokens is the same image at a smaller budget.",
            "",
        ]
    )


def _size(rows: int) -> str:
    return next((size for power, size in enumerate(_SIZES) if rows < 10 ** (power + 3)), "n>1T")
