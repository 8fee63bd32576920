"""Recipes: schedules of rate and loss weights, sources of settings, errors."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.support.training import recipe_without_data
from tokenizer.training.recipe import TokenizerRecipe, run_command

RECIPES = Path(__file__).parents[3] / "tokenizer/recipes"


def test_rate_rises_stays_and_falls() -> None:
    recipe = recipe_without_data(
        samples=1000, batch=1, rate=2, warmup_steps=100, decay_share=0.25, final_rate=0.1
    )
    rates = [recipe.rate_at(views, 0) for views in (0, 49, 99, 500, 750, 875, 1000)]
    assert rates == pytest.approx([0.02, 1, 2, 2, 2, 1.1, 0.2])


def test_rate_warms_up_new_optimisers() -> None:
    recipe = recipe_without_data(samples=1000, batch=1, rate=2, warmup_steps=100)
    assert recipe.rate_at(500, 500) == pytest.approx(0.02)


def test_rate_without_decay_never_falls() -> None:
    assert (
        recipe_without_data(samples=10, batch=1, rate=2, warmup_steps=0, decay_share=0).rate_at(
            10, 0
        )
        == 2
    )


def test_rate_falls_as_the_time_runs_out() -> None:
    recipe = recipe_without_data(
        samples=1000, batch=1, rate=2, warmup_steps=0, decay_share=0.25, final_rate=0.1
    )
    rates = [recipe.rate_at(100, 0, share) for share in (0, 0.5, 0.75, 0.875, 1, 1.2)]
    assert rates == pytest.approx([2, 2, 2, 1.1, 0.2, 0.2])
    assert recipe.rate_at(1000, 0, 0.5) == pytest.approx(0.2)  # the photos are over first


def test_perceptual_weight_waits_and_rises() -> None:
    recipe = recipe_without_data(perceptual_weight=0.5, perceptual_from=100, perceptual_rise=200)
    assert [
        recipe.perceptual_weight_at(views) for views in (0, 99, 100, 200, 300, 900)
    ] == pytest.approx([0, 0, 0, 0.25, 0.5, 0.5])
    at_once = recipe_without_data(perceptual_weight=0.5, perceptual_from=100)
    assert [at_once.perceptual_weight_at(views) for views in (99, 100)] == [0, 0.5]


def test_recipe_file_is_overridden_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANNELTOK_TRAIN_RECIPE", str(RECIPES / "imagenet_8gpu.toml"))
    monkeypatch.setenv("CHANNELTOK_TRAIN_BATCH", "512")
    recipe = recipe_without_data()
    assert (recipe.size, recipe.precision, recipe.batch) == ("full", "bf16", 512)
    assert recipe_without_data(size="tiny").size == "tiny"


def test_recipe_file_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANNELTOK_TRAIN_RECIPE", "gone.toml")
    with pytest.raises(FileNotFoundError, match=r"names 'gone.toml', which is no file"):
        recipe_without_data()


def test_recipe_file_with_a_misspelt_setting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.toml").write_text("learning_rate = 1e-3\n")
    monkeypatch.setenv("CHANNELTOK_TRAIN_RECIPE", str(tmp_path / "recipe.toml"))
    with pytest.raises(ValidationError, match="learning_rate"):
        recipe_without_data()


def test_recipe_without_data_is_refused_with_what_is_allowed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit:
        run_command(TokenizerRecipe, ["--validation", "val", "--batch", "0"])
    train, batch = str(exit.value).splitlines()
    assert train == (
        "--train: Field required "
        "(training photos: a folder of .tar shards, one .tar, or a glob of them)"
    )
    assert batch.startswith("--batch: Input should be greater than or equal to 1")


def test_recipe_records_what_decides_the_result_and_no_paths() -> None:
    recorded = recipe_without_data(start_from="weights").model_dump()
    assert {"samples", "batch", "rate", "size", "minutes", "precision", "seed"} <= recorded.keys()
    paths_and_pace = {"run", "train", "validation", "start_from", "deliver", "device", "workers"}
    paths_and_pace |= {"photos_in_memory", "evaluate_every", "checkpoint_minutes", "compile"}
    assert paths_and_pace.isdisjoint(recorded)
