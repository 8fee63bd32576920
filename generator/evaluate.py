"""Command `python -m generator.evaluate GENERATOR`: measure the images that a generator makes.

Per setting of the sampler and per k: Frechet distance, precision and recall against validation
photos, and how often a classifier recognises the class. The classifier is trained on features of
real training photos, by a network that no training here has seen. Writes a table and JSON.
"""

import argparse
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import webdataset as wds
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import imaging
from generator import checkpoint
from generator.sample import TEMPERATURE, TOP_K, Setting, sample
from generator.tokens import folder_of
from tokenizer import checkpoint as tokenizer_checkpoint
from tokenizer import inference
from tokenizer.evaluation.efficientnet_distance import POOLED_LAYER, frechet, pooled_features
from tokenizer.evaluation.fidelity import Images
from tokenizer.models.base import Tokenizer
from tokenizer.training.data import shards
from tokenizer.training.readable_photos import ReadablePhotos

CLASSIFIER_LAYER = 15  # the deepest one, 320 features
NEIGHBOURS = 3  # of precision and recall, as in their paper
BATCH = 64  # sequences that are sampled together
Features = NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Photos by the image contract, uint8 [N, S, S, 3], and the class of each."""

    images: Images
    classes: NDArray[np.str_]


@dataclass(frozen=True)
class Figures:
    """frechet: see efficientnet_distance. precision, recall: see `precision_recall`.

    accuracy: share of the images whose class the classifier recognises.
    """

    frechet: float
    precision: float
    recall: float
    accuracy: float


class Draw(Protocol):
    """Samples a sequence for each class name: token ids int32 [N, C]."""

    def __call__(self, names: Sequence[str], seed: int, setting: Setting) -> torch.Tensor: ...


@dataclass(frozen=True)
class Candidate:
    """A generator to measure: its fingerprint, and that of the tokenizer of its tokens."""

    fingerprint: str
    tokenizer: str
    classes: list[str]
    draw: Draw


def candidate(weights: Path) -> Candidate:
    """A GPT's file of weights, or CAR's folder, which gets the text of each class."""
    if weights.is_dir():
        from generator.car import model as car_model  # only CAR needs transformers

        car = car_model.load(weights)

        def of_texts(names: Sequence[str], seed: int, setting: Setting) -> torch.Tensor:
            texts = [car_model.text_of(name) for name in names]
            return car.generate(texts, car.channels, seed, **asdict(setting))

        made = tokenizer_checkpoint.fingerprint_of_weights(car.state_dict())
        return Candidate(made, car.tokenizer, car.classes, of_texts)
    generator = checkpoint.load(weights)

    def of_labels(names: Sequence[str], seed: int, setting: Setting) -> torch.Tensor:
        labels = [generator.classes.index(name) for name in names]
        return sample(generator.model, labels, seed, **asdict(setting))

    return Candidate(
        checkpoint.fingerprint(generator.model), generator.tokenizer, generator.classes, of_labels
    )


@dataclass(frozen=True)
class Row:
    """Figures of images of k tokens.

    source: "generated", with its setting and the seconds that sampling one took on this machine in
    PyTorch; or what they are compared with: "photos" of the training set, and "reconstructed"
    validation photos.
    """

    source: str
    k: int | None
    figures: Figures
    setting: Setting | None = None
    seconds: float | None = None


class Judge:
    """Measures images against validation photos, by features of a network no training has seen."""

    def __init__(self, training: Labelled, validation: Labelled) -> None:
        self._classifier = _classifier(training)
        self._real = pooled_features(validation.images, [POOLED_LAYER])[0]

    def measure(self, images: Images, classes: Sequence[str]) -> Figures:
        """Figures of images uint8 [N, S, S, 3] of these classes."""
        features, deep = pooled_features(images, [POOLED_LAYER, CLASSIFIER_LAYER])
        precision, recall = precision_recall(self._real, features)
        recognised = self._classifier.predict(deep)
        return Figures(
            frechet(self._real, features),
            precision,
            recall,
            accuracy=float((recognised == np.asarray(classes)).mean()),
        )


def precision_recall(
    real: Features, made: Features, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Share of images that lie among the photos, and of photos that lie among the images.

    real: float [N, D]. made: float [M, D]. A point lies among others where it is no farther from
    one of them than that one's nearest neighbour of the given number
    (Kynkaanniemi et al. 2019, arXiv 1904.06991).
    """
    return _covered(made, real, neighbours), _covered(real, made, neighbours)


def _covered(points: Features, manifold: Features, neighbours: int) -> float:
    near = NearestNeighbors().fit(manifold)
    radii = near.kneighbors(n_neighbors=neighbours)[0][:, -1]
    inside = [
        bool((distances <= radii[found]).any())
        for distances, found in zip(
            *near.radius_neighbors(points, radius=float(radii.max())), strict=True
        )
    ]
    return float(np.mean(inside))


def _classifier(training: Labelled) -> Pipeline:
    (features,) = pooled_features(training.images, [CLASSIFIER_LAYER])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    return model.fit(features, training.classes)


def labelled_photos(pattern: str, size: int) -> Labelled:
    """All photos of shards, see tokenizer.training.data.shards; a photo's class is its folder."""
    readable = ReadablePhotos(lambda data: imaging.prepare(data, size))
    dataset = wds.WebDataset(shards(pattern), shardshuffle=False, nodesplitter=None)
    names, images = zip(*readable(dataset), strict=True)
    return Labelled(np.stack(images), np.array([folder_of(name) for name in names]))


def select(photos: Labelled, classes: set[str], per_class: int | None = None) -> Labelled:
    """The photos of these classes; at most the first `per_class` of each."""
    seen: Counter[str] = Counter()
    kept = []
    for i, name in enumerate(photos.classes.tolist()):
        if name in classes and (per_class is None or seen[name] < per_class):
            seen[name] += 1
            kept.append(i)
    return Labelled(photos.images[kept], photos.classes[kept])


def generate(
    generator: Candidate, names: Sequence[str], seed: int, setting: Setting
) -> tuple[torch.Tensor, float]:
    """Tokens int32 [N, C] of a class name each, and the seconds that one took."""
    started = time.perf_counter()
    parts = [
        generator.draw(names[start : start + BATCH], seed + start, setting)
        for start in range(0, len(names), BATCH)
    ]
    return torch.cat(parts), (time.perf_counter() - started) / len(names)


def evaluate(
    generator: Candidate,
    tokenizer: Tokenizer,
    training: Labelled,
    validation: Labelled,
    ks: Sequence[int],
    settings: Sequence[Setting],
    seed: int = 0,
) -> Iterator[Row]:
    """Yield rows of real and of reconstructed photos, then one for each setting and k.

    training: of the classes to recognise. validation: of the same classes; as many images are made
    of each class.
    """
    judge, classes = Judge(training, validation), validation.classes.tolist()
    rng = np.random.default_rng(seed)
    some = rng.choice(len(training.images), min(len(classes), len(training.images)), replace=False)
    real = judge.measure(training.images[some], training.classes[some].tolist())
    yield Row("photos", None, real)
    tokens = inference.encode(tokenizer, validation.images)
    for k in ks:
        figures = judge.measure(inference.decode(tokenizer, tokens, k), classes)
        yield Row("reconstructed", k, figures)
    for setting in settings:
        made, seconds = generate(generator, classes, seed, setting)
        for k in ks:
            figures = judge.measure(inference.decode(tokenizer, made, k), classes)
            yield Row("generated", k, figures, setting, seconds)


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown."""
    head = (
        "| images | k | temperature | top-k | top-p | guidance | final temperature | Frechet "
        "| precision | recall | class recognised | s/image |\n" + "|---" * 12 + "|\n"
    )
    return head + "".join(f"{_line(row)}\n" for row in rows)


def _line(row: Row) -> str:
    def text(value: float | None, form: str = "g") -> str:
        return "" if value is None else format(value, form)

    setting = [None] * 5 if row.setting is None else asdict(row.setting).values()
    cells = [
        row.source,
        text(row.k),
        *map(text, setting),
        text(row.figures.frechet, ".2f"),
        text(row.figures.precision, ".2f"),
        text(row.figures.recall, ".2f"),
        text(row.figures.accuracy, ".1%"),
        text(row.seconds, ".2f"),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure the generator that the command line names; write report.md and report.json."""
    parser = argparse.ArgumentParser(prog="python -m generator.evaluate", description=__doc__)
    parser.add_argument(
        "weights",
        type=Path,
        help="safetensors of `python -m generator.train`, or a `car` folder of generator.car",
    )
    parser.add_argument(
        "--tokenizer", type=Path, default=Path("tokenizer/weights/demo.safetensors")
    )
    parser.add_argument("--train", required=True, help="training photos, as shards")
    parser.add_argument("--validation", required=True, help="validation photos, as shards")
    parser.add_argument("--k", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--temperature", type=float, nargs="+", default=[TEMPERATURE])
    parser.add_argument("--final-temperature", type=float, nargs="+", default=[None])
    parser.add_argument("--top-k", type=int, nargs="+", default=[TOP_K])
    parser.add_argument("--top-p", type=float, nargs="+", default=[1.0])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--members", type=int, default=20, help="only classes with so many training photos; 20"
    )
    parser.add_argument(
        "--per-class", type=int, default=40, help="training photos of a class at most; 40"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("build/evaluate-generator"))
    options = parser.parse_args()
    generator = candidate(options.weights)
    tokenizer = tokenizer_checkpoint.load(options.tokenizer)
    if (made := tokenizer_checkpoint.fingerprint(tokenizer)) != generator.tokenizer:
        parser.error(
            f"{options.weights} generates tokens of tokenizer {generator.tokenizer}, but "
            f"{options.tokenizer} is {made}"
        )
    size = tokenizer.shape.image_size
    training, validation = (
        labelled_photos(pattern, size) for pattern in (options.train, options.validation)
    )
    members = Counter(training.classes.tolist())
    classes = {name for name in generator.classes if members[name] >= options.members}
    training = select(training, classes, options.per_class)
    validation = select(validation, classes)
    if not len(validation.images):
        parser.error(f"no validation photo is of a class with {options.members} training photos")
    settings = [
        Setting(*values)
        for values in itertools.product(
            options.temperature,
            options.top_k,
            options.top_p,
            options.guidance,
            options.final_temperature,
        )
    ]
    rows = []
    for row in evaluate(
        generator, tokenizer, training, validation, options.k, settings, options.seed
    ):
        rows.append(row)
        print(_line(row), flush=True)  # a row takes a minute
    options.output.mkdir(parents=True, exist_ok=True)
    report = {
        "generator": options.weights.name,
        "fingerprint": generator.fingerprint,
        "images": len(validation.images),
        "classes": len(classes),
        "rows": [asdict(row) for row in rows],
    }
    (options.output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.output / "report.md").write_text(table(rows))


if __name__ == "__main__":
    main()
