from dataclasses import replace
from unittest.mock import AsyncMock

import pytest
from channeltok import Tokens
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from export.graphs import generator_graph
from service.core.registry import GENERATOR_INTERFACE, Registry, ServedModels
from service.errors import (
    BadPrompt,
    BadTokens,
    EngineUnavailable,
    FingerprintMismatch,
    UnknownClass,
    UnknownGenerator,
    UnknownTokenizer,
)
from service.triton.models import Model
from tests.support.served_models import IMAGE, TOKENS, A, B, C, generator, models


def test_served_models_finds_tokenizers_by_name_and_by_fingerprint() -> None:
    served = ServedModels([*models("cat", A), *models("dog", B)])
    assert served.by_name("dog").fingerprint == B
    assert served.by_fingerprint(B, None).name == "dog"
    assert served.by_fingerprint(A, "cat").name == "cat"


def test_served_models_defaults_to_the_first_name_or_the_one_set() -> None:
    both = [*models("dog", B), *models("cat", A)]
    assert ServedModels(both).by_name(None).name == "cat"
    assert ServedModels(both, default="dog").by_name("").name == "dog"
    assert [tokenizer.name for tokenizer in ServedModels(both, default="dog").tokenizers] == [
        "dog",
        "cat",
    ]


def test_served_models_refuses_a_default_that_is_not_served() -> None:
    with pytest.raises(UnknownTokenizer, match="cow"):
        ServedModels(models("cat", A), default="cow").by_name(None)


def test_served_models_refuses_names_and_fingerprints_that_are_not_served() -> None:
    served = ServedModels([*models("cat", A), *models("dog", B)])
    with pytest.raises(UnknownTokenizer, match="cat, dog"):
        served.by_name("cow")
    with pytest.raises(FingerprintMismatch, match=C):
        served.by_fingerprint(C, None)
    with pytest.raises(FingerprintMismatch):
        served.by_fingerprint(A, "dog")
    with pytest.raises(EngineUnavailable):
        ServedModels([]).by_name(None)


def test_decoder_for_takes_the_smallest_budget_that_fits() -> None:
    tokenizer = ServedModels(models("cat", A, (64, 256, 128))).by_name(None)
    assert list(tokenizer.decoders) == [64, 128, 256]
    assert [tokenizer.decoder_for(k)[0] for k in (1, 64, 65, 128, 129, 256)] == [
        64,
        64,
        128,
        128,
        256,
        256,
    ]


def test_served_models_omits_an_incomplete_tokenizer() -> None:
    encode, decode = models("cat", A)
    assert not ServedModels([encode]).tokenizers
    assert not ServedModels([decode]).tokenizers
    assert not ServedModels(models("cat", A, (64,))).tokenizers  # nothing decodes k = 256
    other_training = replace(decode, parameters={**decode.parameters, "fingerprint": B})
    assert not ServedModels([encode, other_training]).tokenizers


def test_served_models_encodes_with_the_newest_version_and_decodes_with_each() -> None:
    served = ServedModels(
        [*models("cat", A, version=9), *models("cat", B, version=10), *models("ant", C)]
    )
    old, new = served.by_fingerprint(A, "cat"), served.by_name("cat")
    assert (old.version, new.version) == (9, 10)
    assert (served.is_current(old), served.is_current(new)) == (False, True)
    assert served.by_fingerprint(A, None) is old
    assert [tokenizer.fingerprint for tokenizer in served.tokenizers] == [C, B, A]
    with pytest.raises(FingerprintMismatch):
        served.by_fingerprint(C, "cat")


def test_served_models_ignores_models_of_others() -> None:
    foreign = Model("resnet", IMAGE, TOKENS, {})
    assert [
        tokenizer.name for tokenizer in ServedModels([foreign, *models("cat", A)]).tokenizers
    ] == ["cat"]


def test_decoders_for_groups_ks_by_their_decoder() -> None:
    (tokenizer,) = ServedModels(models("cat", A, (8, 64, 256))).tokenizers
    groups = [
        (budget, model.name, ks) for budget, model, ks in tokenizer.decoders_for([1, 8, 9, 64, 256])
    ]
    assert groups == [
        (8, "cat_decode_k8", [1, 8]),
        (64, "cat_decode_k64", [9, 64]),
        (256, "cat_decode_k256", [256]),
    ]


def test_check_refuses_tokens_outside_the_vocabulary_or_too_many() -> None:
    (tokenizer,) = ServedModels(
        [
            replace(model, parameters={**model.parameters, "codes": "300"})
            for model in models("cat", A)
        ]
    ).tokenizers
    tokenizer.check(Tokens([0, 299], A))
    with pytest.raises(BadTokens, match="an id is 300; those of tokenizer 'cat' are 0 to 299"):
        tokenizer.check(Tokens([0, 300], A))
    with pytest.raises(BadTokens, match="257 ids; tokenizer 'cat' takes 1 to 256"):
        tokenizer.check(Tokens([0] * 257, A))


def test_served_models_pairs_a_generator_with_the_tokenizer_of_its_tokens() -> None:
    served = ServedModels(
        [
            *models("cat", A),
            *models("dog", B),
            generator("two", B),
            generator("one", A),
            generator("lost", C),
        ]
    )
    assert [(each.name, each.tokenizer.name) for each in served.generators] == [
        ("one", "cat"),
        ("two", "dog"),
    ]
    assert served.generator(None).name == "one"
    assert served.generator("two").tokenizer.fingerprint == B
    assert [tokenizer.name for tokenizer in served.tokenizers] == ["cat", "dog"]
    assert (
        ServedModels(
            [*models("cat", A), generator("one", A), generator("two", A)], default_generator="two"
        )
        .generator("")
        .name
        == "two"
    )
    with pytest.raises(UnknownGenerator, match="one, two"):
        served.generator("lost")


def test_served_models_omits_a_generator_whose_tokens_it_cannot_decode() -> None:
    assert not ServedModels([*models("cat", A), generator("longer", A, channels="257")]).generators
    assert not ServedModels(
        [*models("cat", A), generator("more", A, bits_per_token="17")]
    ).generators
    assert not ServedModels([generator("alone", A)]).generators
    with pytest.raises(UnknownGenerator, match="no generator is served"):
        ServedModels(models("cat", A)).generator(None)


def test_served_models_generates_with_the_newest_version() -> None:
    served = ServedModels([*models("cat", A), generator("one", A, 9), generator("one", A, 10)])
    assert [each.version for each in served.generators] == [10, 9]
    assert [each.version for each in served.current_generators] == [10]
    assert served.generator("one").version == 10


def test_condition_is_the_number_of_a_class() -> None:
    served = ServedModels([*models("cat", A), generator("one", A)]).generator("one")
    inputs = [served.condition(name, None) for name in (None, "", "cat", "dog")]
    assert [list(each) for each in inputs] == [["class"]] * 4
    assert [each["class"].tolist() for each in inputs] == [[-1], [-1], [0], [1]]
    with pytest.raises(UnknownClass, match=r"it knows cat, dog$"):
        served.condition("cow", None)
    with pytest.raises(BadPrompt, match="takes a class"):
        served.condition("cat", "a cat")
    many = ServedModels(
        [
            *models("cat", A),
            generator("one", A, classes=str([f"c{n}" for n in range(12)]).replace("'", '"')),
        ]
    ).generator("one")
    with pytest.raises(UnknownClass, match=r"c9 and 2 more$"):
        many.condition("cow", None)
    none = ServedModels([*models("cat", A), generator("one", A, classes="[]")]).generator("one")
    with pytest.raises(UnknownClass, match="no classes"):
        none.condition("cow", None)


def test_condition_is_a_prompt_in_utf_8() -> None:
    words = generator("words", A, family="car", prompt_bytes="12")
    served = ServedModels([*models("cat", A), words]).generator("words")
    inputs = [served.condition(None, prompt) for prompt in (None, "", "a cat", "e\u0301")]
    assert [each["prompt"].tobytes().decode() for each in inputs] == ["", "", "a cat", "\u00e9"]
    served.condition(None, "\u00e9" * 6)
    with pytest.raises(BadPrompt, match="13 bytes in UTF-8; generator 'words' takes at most 12"):
        served.condition(None, "\u00e9" * 6 + "!")
    with pytest.raises(UnknownClass, match="takes a prompt"):
        served.condition("cat", None)


def test_generator_without_a_name_is_one_that_reads_the_call() -> None:
    words = generator("a_words", A, prompt_bytes="12")
    served = ServedModels([*models("cat", A), generator("one", A), words])
    chosen = [served.generator(None, prompt=prompt).name for prompt in (None, False, True)]
    assert chosen == ["a_words", "one", "a_words"]
    served = ServedModels([*models("cat", A), generator("one", A), words], default_generator="one")
    chosen = [served.generator(None, prompt=prompt).name for prompt in (None, False, True)]
    assert chosen == ["one", "one", "a_words"]
    alone = ServedModels([*models("cat", A), generator("one", A)])
    assert alone.generator(None, prompt=True).name == "one"
    missing = ServedModels([*models("cat", A), words], default_generator="gone")
    with pytest.raises(UnknownGenerator, match="gone"):
        missing.generator(None, prompt=True)


def test_generator_without_a_name_continues_tokens_of_its_tokenizer() -> None:
    words = generator("a_words", A, prompt_bytes="12")
    listed = [*models("cat", A), *models("dog", B), words, generator("dogs", B)]
    served = ServedModels(listed)

    def chosen(fingerprint: str | None, prompt: bool | None = None) -> str:
        return served.generator(None, prompt=prompt, fingerprint=fingerprint).name

    assert [chosen(None), chosen(A), chosen(B)] == ["a_words", "a_words", "dogs"]
    assert [chosen(B, prompt=False), chosen(A, prompt=True)] == ["dogs", "a_words"]
    assert chosen("of-none") == "a_words"
    served = ServedModels(listed, default_generator="dogs")
    assert [chosen(None), chosen(A), chosen(B)] == ["dogs", "a_words", "dogs"]


def test_generator_of_another_release_is_to_be_exported_again() -> None:
    old, new = generator("old", A, interface="1"), generator("one", A)
    served = ServedModels([*models("cat", A), old, new])
    assert [each.name for each in served.generators] == ["one"]
    assert served.generator(None).name == "one"
    with pytest.raises(UnknownGenerator, match="'old' was exported by another release"):
        served.generator("old")
    with pytest.raises(UnknownGenerator, match="'old' was exported by another release"):
        ServedModels([*models("cat", A), old]).generator(None)
    registry = Registry(AsyncMock())
    with capture_logs() as logs:
        for _ in range(2):
            registry.publish(served)
    assert [entry["generator"] for entry in logs if entry["event"] == "outdated_generator"] == [
        "old"
    ]


def test_generator_interface_is_that_of_the_export() -> None:
    assert str(generator_graph.INTERFACE) == GENERATOR_INTERFACE


async def test_publish_logs_what_is_new_and_marks_what_is_current() -> None:
    registry = Registry(AsyncMock())
    with capture_logs() as logs:
        for version, fingerprint in ((1, A), (1, A), (2, B)):
            registry.publish(ServedModels([*models("cat", fingerprint, version=version)]))
    assert [(entry["tokenizer"], entry["version"]) for entry in logs] == [("cat", 1), ("cat", 2)]
    assert registry.current.by_name("cat").fingerprint == B
    info = {
        fingerprint: REGISTRY.get_sample_value(
            "channeltok_tokenizer_info", {"tokenizer": "cat", "fingerprint": fingerprint}
        )
        for fingerprint in (A, B)
    }
    assert info == {A: 0, B: 1}


def test_image_permits_grow_where_deep_batches_stay_full() -> None:
    cat = [
        replace(model, largest_request=4, deep_request=8, instances=2) for model in models("cat", A)
    ]
    served = ServedModels(cat)
    assert [served.image_permits(demand) for demand in (0, 16, 48, 49)] == [16, 16, 16, 32]
