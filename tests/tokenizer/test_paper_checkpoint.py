"""Checkpoints with the paper's weight names: mapped, or refused with the differences."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tokenizer import checkpoint
from tokenizer.models.channeltok import SIZES, ChannelTok
from tokenizer.paper_checkpoint import their_names


@pytest.fixture(scope="module")
def tiny() -> ChannelTok:
    torch.manual_seed(0)
    return ChannelTok(SIZES["tiny"]).half().float().eval()


@pytest.fixture(scope="module")
def theirs(tiny: ChannelTok) -> dict[str, Tensor]:
    names = their_names(tiny)
    return {names[ours]: value for ours, value in tiny.state_dict().items()}


def test_their_names_of_the_full_size_by_hand() -> None:
    """Counted by hand from the layers in arXiv 2606.04461: stem, 3 x (Res Res Down SiLU), ..."""
    with torch.device("meta"):
        names = their_names(ChannelTok(SIZES["full"]))
    assert len(names) == len(set(names.values()))
    for ours, expected in {
        "encoder.0.weight": "encoder.model.0.weight",
        "encoder.1.block.0.weight": "encoder.model.1.block.0.gn.weight",
        "encoder.1.block.2.bias": "encoder.model.1.block.2.bias",
        "encoder.1.skip.weight": "encoder.model.1.channel_up.weight",
        "encoder.3.conv.weight": "encoder.model.3.conv.weight",
        "encoder.14.norm.weight": "encoder.model.14.norm.gn.weight",
        "encoder.14.q.weight": "encoder.model.14.q.weight",
        "encoder.14.out.bias": "encoder.model.14.proj_out.bias",
        "encoder.20.weight": "encoder.model.20.gn.weight",
        "encoder.22.weight": "encoder.model.22.weight",
        "encoder.23.conv.weight": "encoder.spatial_adjust.0.conv.weight",
        "encoder.25.conv.weight": "encoder.spatial_adjust.2.conv.weight",
        "encoder.27.conv.bias": "encoder.spatial_adjust.4.conv.bias",
        "decoder.0.weight": "decoder.model.0.weight",
        "decoder.2.v.weight": "decoder.model.2.v.weight",
        "decoder.4.conv.weight": "decoder.model.4.conv.weight",
    }.items():
        assert names[ours] == expected
    assert {name.rsplit(".", 1)[0] for name in names.values() if "spatial_adjust" in name} == {
        f"encoder.spatial_adjust.{i}.conv" for i in (0, 2, 4)
    }


@pytest.mark.parametrize("wrapper", ["model_state_dict", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model."])
def test_paper_checkpoint_loads_from_any_pickle_wrapping(
    tiny: ChannelTok, theirs: dict[str, Tensor], tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    content = {prefix + name: value for name, value in theirs.items()}
    content["discriminator.0.weight"] = content["module.perceptual_loss.lpips.0"] = torch.zeros(3)
    path = tmp_path / "theirs.ckpt"
    torch.save({wrapper: content, "epoch": 150} if wrapper else content, path)
    loaded = checkpoint.load(path)
    assert checkpoint.fingerprint(loaded) == checkpoint.fingerprint(tiny)
    assert not loaded.training
    assert checkpoint.facts(path) == {}


def test_paper_checkpoint_loads_safetensors_without_a_shape(
    tiny: ChannelTok, theirs: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(
        {name: value.contiguous() for name, value in theirs.items()},
        tmp_path / "theirs.safetensors",
    )
    loaded = checkpoint.load(tmp_path / "theirs.safetensors")
    pixels = torch.rand(1, 3, 256, 256) * 2 - 1
    with torch.inference_mode():
        tokens = tiny.encode(pixels)
        assert torch.equal(loaded.encode(pixels), tokens)
        assert torch.equal(loaded.decode(tokens), tiny.decode(tokens))


def test_paper_checkpoint_error_lists_differences(
    theirs: dict[str, Tensor], tmp_path: Path
) -> None:
    """The variant with 14 bits: two more Linears, and a stem of another width."""
    changed = {
        **theirs,
        "quantizer.project_in.weight": torch.zeros(14, 16),
        "encoder.model.0.weight": torch.zeros(48, 3, 3, 3),
    }
    del changed["decoder.model.0.bias"]
    torch.save(changed, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="3 differ from the nearest, 'tiny'") as refused:
        checkpoint.load(tmp_path / "other.pt")
    for difference in (
        "decoder.model.0.bias is missing",
        "quantizer.project_in.weight is not part of it",
        "encoder.model.0.weight has shape [48, 3, 3, 3], not [32, 3, 3, 3]",
    ):
        assert difference in str(refused.value)


def test_paper_checkpoint_error_truncates_a_long_list(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"and [0-9]+ more$"):
        checkpoint.load(tmp_path / "other.safetensors")


def test_paper_checkpoint_refuses_weights_beyond_fp16(
    theirs: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(
        {**theirs, "encoder.model.0.bias": theirs["encoder.model.0.bias"] * 0 + 1e6},
        tmp_path / "large.pt",
    )
    with pytest.raises(
        ValueError, match=r"1 weights are not finite in fp16, encoder\.0\.bias first"
    ):
        checkpoint.load(tmp_path / "large.pt")


class Stranger:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code of a stranger ran",))


def test_paper_checkpoint_refuses_a_pickle_that_runs_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": Stranger()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="neither safetensors nor a PyTorch file of tensors alone"):
        checkpoint.load(tmp_path / "evil.ckpt")
    assert "ran" not in capsys.readouterr().out


def test_paper_checkpoint_refuses_other_files(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no state_dict"):
        checkpoint.load(tmp_path / "list.pt")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="neither safetensors nor"):
        checkpoint.load(tmp_path / "text.ckpt")
