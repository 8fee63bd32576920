"""CAR with random weights, small enough for tests."""

import dataclasses
import shutil
from pathlib import Path

import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.graphs import car_graph
from export.triton import generator_repository
from generator.car import model
from generator.car.model import Car, small_language
from tests.support import exported_graphs
from tests.support.random_generator import CLASSES as GPT_CLASSES
from tests.support.random_generator import random_generator
from tests.support.running import ROOT
from tokenizer import checkpoint
from tokenizer.models.channeltok import ShuffleShape
from tokenizer.models.cvq import Cvq, CvqShape

CLASSES = ["bee", "pied_wagtail"]
CODES = 300
# Of other scripts, with control characters, composed of several, and as many bytes as fit
ODD_TEXTS = [
    " ",
    "\0",
    "a\nb\tc",
    "l'\u0153uvre d'art",
    "\u871c\u8702",
    "\U0001f41d\U0001f469\u200d\U0001f467",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "<pad>",
    "e\u0301",
    "A" * 992,
]


def random_car(channels: int = 32, seed: int = 0) -> Car:
    """Two layers of 64, weights that fp16 holds exactly."""
    torch.manual_seed(seed)
    car = Car(
        *small_language(64, 2, 2, 96),
        torch.randn(CODES, 16),
        "0123456789abcdef",
        channels,
        CLASSES,
    )
    with torch.no_grad():
        for weight in [*car.projector.parameters(), *car.head.parameters()]:
            weight.normal_(std=0.2)
    return car.half().float().eval()


def write_car_with_tokenizer(folder: Path) -> tuple[str, str]:
    """As random_generator.write_with_tokenizer: CAR of the same classes, and a CVQ tokenizer."""
    torch.manual_seed(0)
    tokenizer, car = folder / "cvq.safetensors", random_car()
    backbone = ShuffleShape(channels=32, widths=(32, 32, 32, 32))
    cvq = Cvq(CvqShape(backbone=backbone, vocab_size=CODES))
    checkpoint.save(cvq, tokenizer)
    car.tokenizer, car.classes = checkpoint.fingerprint(cvq), GPT_CLASSES
    model.save(car, folder / "car")
    return str(folder / "car"), str(tokenizer)


def write_beside_a_gpt(models: Path, channels: int = 32) -> None:
    """Write a model repository with the demo tokenizer and two generators of its tokens.

    `words` is CAR, `labels` a GPT.
    """
    shutil.copytree(ROOT / "model_repository", models, ignore=shutil.ignore_patterns("__pycache__"))
    demo = text_format.Parse(
        (models / "demo_encode/config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    fingerprint = demo.parameters["fingerprint"].string_value
    car = random_car(channels)
    car.tokenizer = fingerprint
    graph = car_graph.step_graph(car, "words").SerializeToString()
    text_tokenizer = car.text.backend_tokenizer.to_str()
    generator_repository.write(models, graph, text_tokenizer=text_tokenizer)
    gpt = dataclasses.replace(random_generator(channels), tokenizer=fingerprint)
    generator_repository.write(models, exported_graphs.step_graph(gpt, "labels"))
