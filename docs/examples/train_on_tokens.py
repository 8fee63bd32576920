"""Train an image classifier on the first k tokens. Needs PyTorch and `channeltok[batch]`.

    python docs/examples/train_on_tokens.py TRAIN VALIDATION -k 64

TRAIN and VALIDATION are output of `channeltok tokenize` for images with labels.
"""

import argparse
import time

import torch
from channeltok.datasets import TokenDataset
from torch import Tensor, nn

BITS = 16


def bits_of(tokens: Tensor) -> Tensor:
    """Ids int64 [n, k] to float [n, 16 k]: the bits of each id as -1 and 1, or 0 for a missing id.

    A ChannelTok token holds the signs of its channel's 4 x 4 map, one bit for each position.
    """
    bits = (tokens[..., None] >> torch.arange(BITS)) & 1
    return ((2 * bits - 1) * (tokens[..., None] >= 0)).float().flatten(1)


def load_all(dataset: TokenDataset) -> tuple[Tensor, Tensor]:
    """All tokens and labels; images of classes that the dataset does not know are dropped."""
    (batch,) = dataset.batches(len(dataset))
    labels = torch.from_numpy(batch.labels)
    return torch.from_numpy(batch.tokens)[labels >= 0], labels[labels >= 0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", metavar="TRAIN")
    parser.add_argument("validation", metavar="VALIDATION")
    parser.add_argument("-k", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    torch.manual_seed(0)
    train = TokenDataset(options.train, options.k)
    model = nn.Sequential(
        nn.Linear(BITS * train.k, 512),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.Linear(512, len(train.classes)),
    )
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1)
    deadline, epoch = time.monotonic() + options.seconds, 0
    while time.monotonic() < deadline:
        for batch in train.batches(128, seed=epoch):
            loss = nn.functional.cross_entropy(
                model(bits_of(torch.from_numpy(batch.tokens))),
                torch.from_numpy(batch.labels),
                ignore_index=-1,
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        epoch += 1
    model.eval()
    validation = TokenDataset(options.validation, options.k, classes=train.classes)
    tokens, labels = load_all(validation)
    with torch.inference_mode():
        accuracy = (model(bits_of(tokens)).argmax(1) == labels).float().mean().item()
    largest = labels.bincount().max().item() / len(labels)
    print(
        f"k = {train.k}: {accuracy:.1%} of {len(labels):,} correct, {len(train.classes)} classes, "
        f"{epoch} epochs; the largest class has {largest:.1%}"
    )


if __name__ == "__main__":
    main()
