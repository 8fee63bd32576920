"""Engine settings of config.pbtxt: CUDA graphs, warm-up, plans and profiles."""

from pathlib import Path
from typing import Any

import pytest

from export.triton import repository, triton_config
from export.triton.tensorrt_plans import profile


def config(graph: bytes, engine: str) -> Any:
    return repository.parse(repository.config(graph, triton_config.ENGINES[engine]))


@pytest.mark.parametrize("engine", sorted(triton_config.ENGINES))
def test_engines_keep_metadata_and_tensors_of_the_graph(
    engine: str, decodes: dict[int, bytes]
) -> None:
    message = config(decodes[32], engine)
    plain = config(decodes[32], "python")
    assert (message.name, list(message.input), message.output[0]) == (
        plain.name,
        list(plain.input),
        plain.output[0],
    )
    for fact in ("tokenizer", "role", "budget", "fingerprint", "graph_sha256"):
        assert message.parameters[fact] == plain.parameters[fact]


@pytest.mark.parametrize("engine", sorted(set(triton_config.ENGINES) - {"python"}))
def test_gpu_engines_warm_up(engine: str, decodes: dict[int, bytes]) -> None:
    message = config(decodes[32], engine)
    assert [warmup.batch_size for warmup in message.model_warmup] == [1, message.max_batch_size]
    for warmup in message.model_warmup:
        (sample,) = warmup.inputs.values()
        assert (sample.data_type, list(sample.dims)) == (
            message.input[0].data_type,
            list(message.input[0].dims),
        )


def test_tensorrt_has_a_cuda_graph_for_every_batch(decodes: dict[int, bytes]) -> None:
    message = config(decodes[32], "tensorrt")
    covered = [
        batch
        for spec in message.optimization.cuda.graph_spec
        for batch in range(spec.graph_lower_bound.batch_size, spec.batch_size + 1)
    ]
    assert covered == list(range(1, message.max_batch_size + 1))
    for spec in message.optimization.cuda.graph_spec:
        assert (
            list(spec.input["tokens"].dim)
            == list(spec.graph_lower_bound.input["tokens"].dim)
            == [32]
        )


def test_tensorrt_has_one_plan_per_compute_capability(encode: bytes) -> None:
    message = config(encode, "tensorrt")
    assert message.cc_model_filenames["8.6"] == "model_sm86.plan"
    assert len(set(message.cc_model_filenames.values())) == len(triton_config.COMPUTE_CAPABILITIES)


def test_profile_comes_from_the_config(tmp_path: Path, encode: bytes) -> None:
    (tmp_path / "config.pbtxt").write_text(
        repository.config(encode, triton_config.ENGINES["tensorrt"])
    )
    assert profile(tmp_path) == (
        "--minShapes=picture:1x128x128x3",
        "--optShapes=picture:32x128x128x3",
        "--maxShapes=picture:128x128x128x3",
    )
