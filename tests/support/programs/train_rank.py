"""One rank of a training run: writes the keys of each batch, a line each.

    train_rank SHARDS RENDEZVOUS RANK RANKS WORKERS OUTPUT STATE STOP

Continues from the file STATE if there is one; kills itself after STOP batches, if that is not 0,
having saved its state after each.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from channeltok.datasets import TokenDataset
from channeltok.datasets.torch_loader import TokenLoader


def main() -> None:
    shards, rendezvous, rank, ranks, workers, output, state, stop = sys.argv[1:]
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(ranks)
    )
    dataset = TokenDataset(shards, columns=["key"])
    loader = TokenLoader(dataset, 16, seed=3, workers=int(workers), shuffle_rows=100)
    if Path(state).exists():
        loader.load_state_dict(json.loads(Path(state).read_text()))
    with open(output, "a") as file:
        for number, batch in enumerate(loader, 1):
            assert batch["tokens"].shape == (len(batch["key"]), 8)
            file.write(json.dumps(batch["key"]) + "\n")
            file.flush()
            if number == int(stop):
                Path(state).write_text(json.dumps(loader.state_dict()))
                os.kill(os.getpid(), signal.SIGKILL)
    print(len(loader))


if __name__ == "__main__":
    main()
