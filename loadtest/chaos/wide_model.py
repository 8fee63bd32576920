"""Export the demo's shape at five times its widths, with random weights: `... REPOSITORY`."""

import sys
from pathlib import Path

import torch

from export.graphs import graph
from export.triton import repository
from tokenizer.models.channeltok import ChannelTok, ShuffleShape

if __name__ == "__main__":
    torch.manual_seed(0)
    shape = ShuffleShape(widths=(320, 480, 960, 1280))
    model = ChannelTok(shape).half().float().eval()
    encode = graph.encode_graph(model, "wide")
    decode = graph.decode_graph(model, "wide", shape.channels)
    repository.write(
        Path(sys.argv[1]), "wide", [encode.SerializeToString(), decode.SerializeToString()]
    )
