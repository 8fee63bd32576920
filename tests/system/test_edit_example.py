"""docs/examples/edit_images.py edits images on a real service with a generator."""

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from channeltok import Client, GenerateParams, Tokens
from PIL import Image

from tests.support.photographs import jpeg
from tests.support.running import ROOT, Service, running
from tests.support.sketch_generator import repository

EXAMPLE = ROOT / "docs/examples/edit_images.py"
PARAMS = GenerateParams(class_name="cat", seed=1)


@pytest.fixture(scope="module")
def example() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE)))


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = repository.write(tmp_path_factory.mktemp("generator"), pause=0)
    with running(model_repository=str(made.models)) as service:
        yield service


def test_edits_keep_what_they_should(generating: Service, example: SimpleNamespace) -> None:
    with Client(generating.grpc, timeout=60) as client:
        photo, other = client.encode([jpeg("chelsea"), jpeg("coffee")], 64)
        continued = example.continued(client, photo, 10, PARAMS)
        replaced = example.replaced(client, photo, 10, 20, PARAMS)
        mixed = example.mixed(photo, other, 10)
    assert [edited.k for edited in (continued, replaced, mixed)] == [64, 64, 64]
    assert continued.prefix(10) == replaced.prefix(10) == mixed.prefix(10) == photo.prefix(10)
    assert (continued.ids[10:20] == replaced.ids[10:20]).all()
    assert (replaced.ids[10:20] != photo.ids[10:20]).any()
    assert (replaced.ids[20:] == photo.ids[20:]).all()
    assert (mixed.ids[10:] == other.ids[10:]).all()


def test_tokens_of_two_tokenizers_do_not_mix(example: SimpleNamespace) -> None:
    ids = np.array([1, 2], np.uint16)
    with pytest.raises(ValueError, match="do not mix"):
        example.mixed(Tokens(ids, "0" * 16), Tokens(ids, "1" * 16), 1)


def test_the_example_writes_five_images_side_by_side(
    generating: Service, example: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, output = tmp_path / "photo.jpg", tmp_path / "edited.png"
    photo.write_bytes(jpeg())
    arguments = [photo, ROOT / "docs/images/cat.jpg", "--address", generating.grpc, "-o", output]
    monkeypatch.setattr(sys, "argv", ["edit_images.py", *map(str, arguments)])
    example.main()
    with Image.open(output) as image:
        assert image.size == (5 * 128, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["docs/images/none.jpg"], "BAD_IMAGE: .*none.jpg.*cannot be read"),
        (["docs/images/cat.jpg", "--keep", "500"], "500"),
        (["docs/images/cat.jpg", "--class", "no such thing"], "UNKNOWN_CLASS"),
    ],
)
def test_bad_options_are_answered_in_a_line(
    generating: Service,
    example: SimpleNamespace,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo = str(ROOT / "docs/images/cat.jpg")
    line = ["edit_images.py", photo, *arguments, "--address", generating.grpc]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as caught:
        example.main()
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert re.fullmatch(f"edit_images.py: .*{message}.*\n", error)
