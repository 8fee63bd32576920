"""What the service writes into protobuf messages, the client reads as the same values."""

from dataclasses import asdict

import pytest
from channeltok import Generated, GenerateParams, InvalidInput, NewTokens, Preview, Started, Tokens
from channeltok._messages import read_tokenizers
from channeltok.generation import generate_request, read_event, read_generators
from channeltok.v1 import tokenizer_pb2 as pb

import imaging
from service.core.generation import Event, Finished
from service.core.registry import ServedModels
from service.errors import BadRequest, UnsupportedFormat
from service.grpc import messages
from tests.support.served_models import A, generator, models

SERVED = ServedModels([*models("cat", A), generator("one", A)])


@pytest.mark.parametrize(
    "params",
    [
        GenerateParams(),
        GenerateParams(k=0, seed=0, temperature=0.0, top_k=0, top_p=0.0, guidance=0.0),
        GenerateParams(
            generator="one",
            class_name="dog",
            prefix=Tokens([1, 2], A).to_bytes(),
            k=3,
            seed=2**63 - 1,
            temperature=0.5,
            top_k=4,
            top_p=0.5,
            guidance=3.0,
            previews=[1, 3],
            preview_format="webp",
        ),
    ],
    ids=["none", "zeros", "all"],
)
def test_read_generate_request_keeps_all_parameters(params: GenerateParams) -> None:
    read = GenerateParams(**messages.read_generate_request(generate_request(params)))
    assert asdict(read) == asdict(params)


@pytest.mark.parametrize(
    "event", [Started("one", "cat", A, 7, 3), NewTokens(2, (5, 6)), Preview(3, b"png")]
)
def test_generate_response_is_read_as_the_same_event(event: Event) -> None:
    assert read_event(messages.generate_response(event)) == event


def test_generate_response_has_the_finished_sequence_and_its_stages() -> None:
    event = Finished("cat", Tokens([1], A), "openvino bf16", {"admission": 0.5})
    response = messages.generate_response(event)
    assert read_event(response) == Generated(event.tokens, event.engine)
    assert {stage.stage: stage.seconds for stage in response.finished.stages} == event.stages


def test_list_responses_are_read_as_the_same_infos() -> None:
    tokenizers = [served.info() for served in SERVED.tokenizers]
    assert read_tokenizers(messages.list_tokenizers_response(tokenizers)) == tokenizers
    generators = [served.info() for served in SERVED.generators]
    assert read_generators(messages.list_generators_response(generators)) == generators
    assert tokenizers
    assert generators


def test_pillow_format_is_png_by_default_and_refuses_unknown_numbers() -> None:
    assert [messages.pillow_format(number) for number in (0, 1, 2, 3)] == [
        "PNG",
        "PNG",
        "JPEG",
        "WEBP",
    ]
    with pytest.raises(UnsupportedFormat, match="format 9"):
        messages.pillow_format(9)


def test_read_quality_refuses_two_targets() -> None:
    assert messages.read_quality(pb.Quality(ssim=0.5, max_bytes=64)).max_bytes == 64
    with pytest.raises(BadRequest):
        messages.read_quality(pb.Quality(ssim=0.5, psnr=20))


def test_read_image_is_a_file_or_pixels_and_not_both() -> None:
    assert messages.read_image(pb.EncodeRequest(image=b"file")) == b"file"
    pixels = pb.Pixels(width=2, height=1, rgb=b"abcdef")
    read = messages.read_image(pb.EncodeRequest(pixels=pixels))
    assert read == imaging.Pixels(2, 1, b"abcdef")
    with pytest.raises(BadRequest, match="not both"):
        messages.read_image(pb.EncodeRequest(image=b"file", pixels=pixels))


def test_read_fit_is_crop_by_default_and_refuses_unknown_numbers() -> None:
    assert [messages.read_fit(number) for number in (0, 1, 2)] == ["crop", "crop", "pad"]
    with pytest.raises(BadRequest, match="fit 3 is unknown; 1 is crop, 2 pad"):
        messages.read_fit(3)


def test_read_aspect_is_none_by_default_and_refuses_zero() -> None:
    assert messages.read_aspect(pb.DecodeRequest()) is None
    wide = pb.AspectRatio(width=3, height=1)
    assert messages.read_aspect(pb.DecodeRequest(aspect=wide)) == (3, 1)
    for flat in (pb.AspectRatio(width=3), pb.AspectRatio(height=3), pb.AspectRatio()):
        with pytest.raises(InvalidInput, match="two whole numbers from 1"):
            messages.read_aspect(pb.DecodeRequest(aspect=flat))
