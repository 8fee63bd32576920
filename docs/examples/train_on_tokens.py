"""Learn the classes of photos from their first k tokens. Needs PyTorch and `channeltok[batch]`.

    python docs/examples/train_on_tokens.py TRAIN VALIDATION -k 64

TRAIN and VALIDATION are what `channeltok tokenize` wrote of images with labels.
"""

import argparse
import time

import torch
from channeltok.datasets import TokenDataset
from torch import Tensor, nn

BITS = 16


def signs(tokens: Tensor) -> Tensor:
    """Ids int64 [n, k], -1 where absent, to float [n, 16 k]: a token is the signs of its channel's 4 x 4 map; 0 where absent."""
    bits = (tokens[..., None] >> torch.arange(BITS)) & 1
    return ((2 * bits - 1) * (tokens[..., None] >= 0)).float().flatten(1)


def whole(dataset: TokenDataset, classes: list[str]) -> tuple[Tensor, Tensor]:
    """All tokens, and labels as places in `classes`; images of other classes are left out."""
    (batch,) = dataset.batches(len(dataset))
    place = torch.tensor(
        [classes.index(name) if name in classes else -1 for name in dataset.classes] + [-1]
    )
    labels = place[torch.from_numpy(batch.labels)]
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
    until, epoch = time.monotonic() + options.seconds, 0
    while time.monotonic() < until:
        for batch in train.batches(128, seed=epoch):
            loss = nn.functional.cross_entropy(
                model(signs(torch.from_numpy(batch.tokens))),
                torch.from_numpy(batch.labels),
                ignore_index=-1,
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        epoch += 1
    model.eval()
    tokens, labels = whole(TokenDataset(options.validation, options.k), train.classes)
    with torch.inference_mode():
        right = (model(signs(tokens)).argmax(1) == labels).float().mean().item()
    most = labels.bincount().max().item() / len(labels)
    print(
        f"k = {train.k}: {right:.1%} of {len(labels):,} right, {len(train.classes)} classes, {epoch} epochs; the largest class: {most:.1%}"
    )


if __name__ == "__main__":
    main()
