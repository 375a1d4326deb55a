"""The U-Nets: what comes in and goes out, what they go by, and that the presets have the paper's sizes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from imagen.cascade.unet import UNet
from imagen.config.cascade import CascadeSettings, StageSettings, UNetSettings
from imagen.config.presets import IMAGEN_2B, PRESETS, TINY


def count_parameters(settings: CascadeSettings, stage: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet(**settings.unet_arguments(stage)).parameters())


@pytest.mark.parametrize(("stage", "millions"), [(0, 2000), (1, 600), (2, 400)])
def test_the_preset_imagen_2b_has_the_papers_counts_of_parameters(stage: int, millions: int) -> None:
    assert count_parameters(IMAGEN_2B, stage) / 1e6 == pytest.approx(millions, rel=0.05)


def random_unet(stage: int, **more: Any) -> UNet:
    """A tiny U-Net with weights that are nowhere zero, so that every input affects its output."""
    torch.manual_seed(stage)
    unet = UNet(**TINY.unet_arguments(stage) | more)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return unet.eval()


def random_inputs(stage: int, count: int = 2) -> dict[str, torch.Tensor]:
    rng, side = torch.Generator().manual_seed(5), TINY.stages[stage].resolution
    inputs = {
        "pixels": torch.randn(count, 3, side, side, generator=rng),
        "time": torch.tensor([10.0, 900.0])[:count],
        "text": torch.randn(count, 6, 128, generator=rng),
        "mask": torch.tensor([[True] * 4 + [False] * 2, [True] * 6])[:count],
    }
    if stage:
        small = torch.randn(count, 3, side, side, generator=rng)
        inputs |= {"low_res": small, "noise_level": torch.tensor([0.0, 0.4])[:count]}
    return inputs


@pytest.mark.parametrize("stage", [0, 1])
def test_every_input_but_padding_changes_the_output(stage: int) -> None:
    unet, inputs = random_unet(stage), random_inputs(stage)
    with torch.no_grad():
        output = unet(**inputs)
        assert output.shape == inputs["pixels"].shape
        for name, value in inputs.items():
            if name != "mask":
                other = unet(**inputs | {name: value + torch.rand_like(value.float())})
                assert not torch.allclose(other, output, atol=1e-4), name
        padded = inputs["text"].clone()
        padded[0, 4:] = 9
        torch.testing.assert_close(unet(**inputs | {"text": padded}), output, atol=1e-5, rtol=1e-5)
        longer = {"text": torch.nn.functional.pad(inputs["text"], (0, 0, 0, 3), value=7.0)}
        longer["mask"] = torch.nn.functional.pad(inputs["mask"], (0, 3))
        torch.testing.assert_close(unet(**inputs | longer), output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_sample_does_not_depend_on_its_neighbours(stage: int) -> None:
    unet, inputs = random_unet(stage), random_inputs(stage)
    with torch.no_grad():
        together = unet(**inputs)
        alone = [unet(**{name: value[n : n + 1] for name, value in inputs.items()}) for n in range(2)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-5)


def test_a_dropped_caption_is_no_caption() -> None:
    unet, inputs = random_unet(0), random_inputs(0)
    dropped = inputs | {"mask": torch.zeros_like(inputs["mask"])}
    with torch.no_grad():
        none = unet(inputs["pixels"], inputs["time"])
        torch.testing.assert_close(unet(**dropped), none, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(unet(**inputs), none, atol=1e-4)


@pytest.mark.parametrize("stage", [0, 1])
def test_checkpointed_gradients_are_the_gradients(stage: int) -> None:
    unet, inputs = random_unet(stage), random_inputs(stage)
    gradients = []
    for checkpointed in (False, True):
        unet.gradient_checkpointing = checkpointed
        unet.zero_grad()
        unet(**inputs).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in unet.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(list(unet.parameters()))
    for plain, checkpointed_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed_gradient)


def test_a_model_without_text_has_no_part_that_reads() -> None:
    unet = UNet(**TINY.unet_arguments(0) | {"text_width": None})
    assert not [name for name, _ in unet.named_parameters() if "text" in name or "pool" in name or "null" in name]
    assert unet(torch.randn(1, 3, 16, 16), torch.tensor([1.0])).shape == (1, 3, 16, 16)


def test_a_saved_model_comes_back(tmp_path: Any) -> None:
    unet, inputs = random_unet(1), random_inputs(1)
    unet.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    again = UNet.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs), unet(**inputs))


def test_the_finest_level_of_an_efficient_one_works_on_a_quarter_of_the_pixels() -> None:
    sides: dict[str, int] = {}
    unet = random_unet(1)
    for name, block in unet.named_modules():
        if name.endswith("conv1"):
            block.register_forward_hook(lambda _, __, out, name=name: sides.update({name: out.shape[-1]}))
    with torch.no_grad():
        unet(**random_inputs(1))
    assert max(sides.values()) == TINY.stages[1].resolution // 2


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_written_as_json_and_read_again(name: str) -> None:
    preset = PRESETS[name].cascade
    assert CascadeSettings.model_validate_json(preset.model_dump_json()) == preset


def test_the_page_on_models_says_how_many_parameters_each_has() -> None:
    page = Path(__file__).parents[3] / "docs" / "models.md"
    rows = re.findall(r"^\| (\S+) \| (\d+) \| ([\d.]+) \|$", page.read_text(), flags=re.MULTILINE)
    counted = [
        (name, str(stage.resolution), f"{count_parameters(preset.cascade, number) / 1e6:.1f}")
        for name, preset in PRESETS.items()
        for number, stage in enumerate(preset.cascade.stages)
    ]
    assert rows == counted


def test_what_is_wrong_with_a_cascade_is_one_sentence() -> None:
    four = {"channels": (8, 16), "blocks": (1, 1), "attend": (False, True), "read": (False, True)}
    with pytest.raises(ValidationError, match="blocks has 1 values for 2 levels"):
        UNetSettings(**four | {"blocks": (1,)})
    with pytest.raises(ValidationError, match="a U-Net of 2 levels needs multiples of 2 pixels, not 17"):
        StageSettings(resolution=17, unet=UNetSettings(**four))
    stage = StageSettings(resolution=16, unet=UNetSettings(**four))
    with pytest.raises(ValidationError, match=r"each stage makes larger images than the one before, not \[16, 16\]"):
        CascadeSettings(stages=(stage, stage))
