"""Command `python -m tokenizer.evaluation.coarse_to_fine`: figure of images at growing k."""

from tokenizer import inference
from tokenizer.evaluation import image_grid
from tokenizer.evaluation.fidelity import psnr


def main() -> None:
    """Draw a row per photo: k = 8, 16, 32, ... with bytes and PSNR, then the original."""
    model, photos, output = image_grid.read_arguments(
        "tokenizer.evaluation.coarse_to_fine", __doc__
    )
    tokens = inference.encode(model, photos)
    columns = []
    for k in inference.budgets(model.shape.channels):
        decoded = inference.decode(model, tokens, k)
        titles = [
            f"k = {k}, {k * model.bits_per_token // 8} bytes\n{decibels:.1f} dB"
            for decibels in psnr(photos, decoded)
        ]
        columns.append(image_grid.Column(titles, decoded))
    image_grid.draw([*columns, image_grid.Column(["original"] * len(photos), photos)], output)


if __name__ == "__main__":
    main()
