"""How the rate and the weights of the losses move, and where settings come from."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tokenizer.training.recipe import Recipe

RECIPES = Path(__file__).parents[3] / "tokenizer/recipes"


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(views=1000, batch=1, rate=2, warmup_steps=100, decay_share=0.25, final_rate=0.1)
    rates = [recipe.rate_at(views, 0) for views in (0, 49, 99, 500, 750, 875, 1000)]
    assert rates == pytest.approx([0.02, 1, 2, 2, 2, 1.1, 0.2])


def test_new_optimisers_warm_up_where_they_are_new() -> None:
    recipe = Recipe(views=1000, batch=1, rate=2, warmup_steps=100)
    assert recipe.rate_at(500, 500) == pytest.approx(0.02)


def test_a_rate_that_never_falls() -> None:
    assert Recipe(views=10, batch=1, rate=2, warmup_steps=0, decay_share=0).rate_at(10, 0) == 2


def test_the_rate_falls_as_the_time_runs_out_where_that_is_first() -> None:
    recipe = Recipe(views=1000, batch=1, rate=2, warmup_steps=0, decay_share=0.25, final_rate=0.1)
    rates = [recipe.rate_at(100, 0, share) for share in (0, 0.5, 0.75, 0.875, 1, 1.2)]
    assert rates == pytest.approx([2, 2, 2, 1.1, 0.2, 0.2])
    assert recipe.rate_at(1000, 0, 0.5) == pytest.approx(0.2)  # the photos are over first


def test_the_perceptual_loss_waits_and_rises() -> None:
    recipe = Recipe(perceptual_weight=0.5, perceptual_from=100, perceptual_rise=200)
    assert [
        recipe.perceptual_weight_at(views) for views in (0, 99, 100, 200, 300, 900)
    ] == pytest.approx([0, 0, 0, 0.25, 0.5, 0.5])
    at_once = Recipe(perceptual_weight=0.5, perceptual_from=100)
    assert [at_once.perceptual_weight_at(views) for views in (99, 100)] == [0, 0.5]


def test_a_recipe_file_is_overruled_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANNELTOK_TRAIN_RECIPE", str(RECIPES / "imagenet_8gpu.toml"))
    monkeypatch.setenv("CHANNELTOK_TRAIN_BATCH", "512")
    recipe = Recipe()
    assert (recipe.size, recipe.precision, recipe.batch) == ("full", "bf16", 512)
    assert Recipe(size="tiny").size == "tiny"


def test_a_missing_recipe_file_is_not_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANNELTOK_TRAIN_RECIPE", "gone.toml")
    with pytest.raises(FileNotFoundError, match=r"names 'gone.toml', which is no file"):
        Recipe()


def test_a_misspelt_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipe.toml").write_text("learning_rate = 1e-3\n")
    monkeypatch.setenv("CHANNELTOK_TRAIN_RECIPE", str(tmp_path / "recipe.toml"))
    with pytest.raises(ValidationError, match="learning_rate"):
        Recipe()
