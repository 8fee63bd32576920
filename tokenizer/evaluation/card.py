"""Command `python -m tokenizer.evaluation.card`: write a model card from evaluation reports."""

import argparse
import json
from pathlib import Path

from tokenizer import checkpoint
from tokenizer.models.blocks import parameter_count

WEIGHTS = Path(__file__).parents[1] / "weights"
TEMPLATE, FAMILY_TEMPLATE = "card.template.md", "card.{family}.md"
VARIANTS = {
    "shuffle": ". A CPU variant of ours, not in the paper",
    "cvq": ". The backbone is ChannelTok's CPU variant, not the paper's VQGAN",
    "flextok": ". It works on pixels: no VAE and no other pretrained network",
}
OBJECTS = (
    "Caltech-101 (CC BY 4.0), Clothing dataset small (CC0), Grocery Store Dataset (MIT), TrashNet "
    "(MIT)"
)
PHOTOS = {  # by family
    "channeltok": f"11,727: {OBJECTS}; OpenStax textbooks, Open Images, TensorFlow flowers, "
    "Wikimedia and others (CC BY, CC0, public domain)",
    "cvq": f"8,173: {OBJECTS}",
    "flextok": f"8,173: {OBJECTS}",
}


def main() -> None:
    """Write the card of one checkpoint from its metadata and evaluation reports."""
    parser = argparse.ArgumentParser(
        prog="python -m tokenizer.evaluation.card", description=__doc__
    )
    parser.add_argument("weights", type=Path, help="safetensors checkpoint of a training run")
    parser.add_argument(
        "--reports",
        type=Path,
        nargs="+",
        required=True,
        help="report folders of tokenizer.evaluate for these weights",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="Markdown to write")
    options = parser.parse_args()
    options.output.write_text(card(options.weights, options.reports))


def card(weights: Path, reports: list[Path]) -> str:
    """The card as Markdown. Raises ValueError for a report of other weights."""
    model, facts = checkpoint.load(weights), checkpoint.facts(weights)
    fingerprint = checkpoint.fingerprint(model)
    for report in reports:
        evaluated = json.loads((report / "report.json").read_text())["fingerprint"]
        if evaluated != fingerprint:
            raise ValueError(
                f"{report} evaluates {evaluated}, but {weights} is {fingerprint}: run "
                "tokenizer.evaluate again"
            )
    template = "\n".join(
        (WEIGHTS / name).read_text()
        for name in (TEMPLATE, FAMILY_TEMPLATE.format(family=model.family))
    )
    return template.format(
        name=weights.stem,
        title=model.title,
        size=model.shape.image_size,
        kind=type(model.shape).__name__,
        channels=model.shape.channels,
        codes=model.vocab_size,
        bits=model.bits_per_token,
        parameters=parameter_count(model) / 1e6,
        encoder=parameter_count(model.encoder) / 1e6,
        decoder=sum(map(parameter_count, model.decoders)) / 1e6,
        variant=VARIANTS.get(model.shape.kind, ""),
        fingerprint=fingerprint,
        photos=PHOTOS[model.family],
        views=int(facts["views"]),
        hours=float(facts["seconds"]) / 3600,
        recipe=", ".join(
            f"{name.replace('_', ' ')} {value}"
            for name, value in json.loads(facts["recipe"]).items()
        ),
        reports="\n".join((report / "report.md").read_text() for report in reports).rstrip(),
    )


if __name__ == "__main__":
    main()
