"""What a training is made from: the dial's rules, what changes them, and what is wrong in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from imagen.config.presets import PRESETS
from imagen.config.stage import TrainSettings
from imagen.config.training import TrainConfig, load_config, with_time_budget
from imagen.errors import ConfigError

GOOD = "name: shapes\npreset: tiny\n"


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        (GOOD + "colour: red\n", 3, "colour: there is no such field"),
        (GOOD + "train:\n  steps: many\n", 4, "train.steps: Input should be a valid integer"),
        (GOOD + "train:\n  batch: 0\n", 4, "train.batch: Input should be greater than or equal to 1"),
        (GOOD + "stages:\n  - {steps: 5}\n  - {crop: 5}\n", 5, "stages.1.crop: there is no such field"),
        (GOOD + "stages: [{}, {}, {}]\n", 1, "stages has 3 entries for 2 models"),
        ("name: Shapes\npreset: tiny\n", 1, "name: a model's name has lower-case letters"),
        ("name: shapes\npreset: huge\n", 2, "preset: Input should be 'tiny', 'small' or 'imagen-2b'"),
        ("name: shapes\n", 1, "set either preset (tiny, small, imagen-2b) or cascade"),
        (GOOD + "lora: {rank: 4}\n", 1, "lora changes a trained model: name it with init_from"),
        (GOOD + "resolutions: [16, 16]\n", 1, "each stage makes larger images than the one before, not [16, 16]"),
        (GOOD + "size: 33\n", 3, "size: Input should be a multiple of 8"),
        (
            "name: a\ncascade:\n  stages:\n    - {resolution: 17, unet: {channels: [8, 8], blocks: [1, 1], "
            "attend: [no, no], read: [no, no]}}\n",
            4,
            "a U-Net of 2 levels needs multiples of 2 pixels, not 17",
        ),
    ],
)
def test_what_is_wrong_is_named_with_line_and_field(text: str, line: int, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(str(file))
    assert f"{file}, line {line}: " in str(error.value)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"), [("[1]", "it must be a mapping"), ("a: [", "is not valid YAML"), ("", "mapping")]
)
def test_a_file_that_is_no_configuration_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_config(str(file))


def test_a_file_or_preset_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"there/model\.yaml does not exist"):
        load_config("there/model.yaml")
    with pytest.raises(ConfigError, match=r"huge does not exist\. Give a \.yaml file or one of: tiny, small"):
        load_config("huge")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_configuration(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config.resolved_cascade == PRESETS[name].cascade
    assert len(config.sampling) == len(config.resolved_cascade.stages)


def test_everything_follows_from_the_dial() -> None:
    """A larger model is wider, has more parameters, learns in smaller steps, from larger batches, for longer."""
    small, large = load_config("tiny", {"size": 64}), load_config("tiny", {"size": 128})
    assert [stage.resolution for stage in small.resolved_cascade.stages] == [
        stage.resolution for stage in large.resolved_cascade.stages
    ]
    assert max(large.resolved_cascade.stages[0].unet.channels) == 2 * max(
        small.resolved_cascade.stages[0].unet.channels
    )
    ours, theirs = small.training(0), large.training(0)
    assert (theirs.batch, theirs.steps) == (2 * ours.batch, 2 * ours.steps)
    assert theirs.learning_rate == ours.learning_rate / 2
    assert (ours.optimizer, load_config("tiny").training(0).optimizer) == ("adamw", "muon")


def test_a_stage_says_last_how_it_is_trained(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(GOOD + "train: {batch: 16, seed: 3}\nstages:\n  - {}\n  - {batch: 8}\n")
    config = load_config(str(file), training={"seed": 4})
    assert [(stage.batch, stage.seed) for stage in (config.training(0), config.training(1))] == [(16, 4), (8, 4)]
    assert config.training(0).learning_rate == load_config("tiny").training(0).learning_rate


def test_time_is_shared_out_between_stages() -> None:
    config = with_time_budget(TrainConfig(name="a", preset="imagen-2b", stages=(TrainSettings(batch=8),)), 10, 0.5)
    assert [config.training(stage).minutes for stage in range(3)] == [5, 2.5, 2.5]
    assert config.training(0).batch == 8
    single = with_time_budget(TrainConfig(name="a", preset="tiny", resolutions=(16,)), 10, 0.5)
    assert single.training(0).minutes == 10
    settings = TrainSettings(minutes=1, warmup=0, learning_rate=1)
    assert settings.learning_rate_at(5, 0.0) == 1
    assert settings.learning_rate_at(5, 0.5) == pytest.approx(0.51)
    assert settings.learning_rate_at(5, 1.0) == pytest.approx(0.02)


def test_reading_a_configuration_loads_no_torch() -> None:
    code = "import sys; from imagen.config.training import load_config; load_config('tiny'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "imagen.config.training" in done.stdout.split()
    assert not {"torch", "diffusers", "transformers", "scipy.stats"} & set(done.stdout.split())
