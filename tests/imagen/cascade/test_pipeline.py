"""Pictures by prompts and by pictures: what a seed promises, what can be changed, and what is refused."""

import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from imagen.cascade.pipeline import NotPossible
from imagen.cascade.resize import enlarge, shrink
from imagen.models.model import Imagen
from tests.lakes.trained import CAPTION, mean_difference, pixel_levels, untrained_model

OTHERS = ["red", "a small green triangle below a large yellow star and a blue square", "two circles"]


@pytest.fixture
def gradient_picture() -> Image.Image:
    """Smooth in both directions, and nothing that the model would make."""
    y, x = np.mgrid[0:32, 0:32] * 8
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


@pytest.fixture
def mask() -> Image.Image:
    """The right half."""
    values = np.zeros((32, 32), np.uint8)
    values[:, 16:] = 255
    return Image.fromarray(values)


def test_the_same_seed_is_the_same_picture_whatever_the_batch(model: Imagen) -> None:
    """Batches of other shapes add up in another order: the last bit of a float may differ, so a level may too."""
    alone = model.generate_image(CAPTION, seed=7)
    assert alone.tobytes() == model.generate_image(CAPTION, seed=7).tobytes()
    together = model.generate_images([*OTHERS, CAPTION, *OTHERS], seed=7)
    assert len(together) == 7
    assert np.abs(pixel_levels(together[3]) - pixel_levels(alone)).max() <= 1
    assert mean_difference(together[2], alone) > 1


def test_the_pictures_of_a_prompt_have_seeds_in_a_row(model: Imagen) -> None:
    two, three = (model.generate_images([CAPTION, OTHERS[0]], n=3, seed=5, batch=batch) for batch in (4, 6))
    for image, other in zip(two, three, strict=True):
        assert np.abs(pixel_levels(image) - pixel_levels(other)).max() <= 1
    for number in range(3):
        alone = model.generate_image(CAPTION, seed=5 + number)
        assert np.abs(pixel_levels(alone) - pixel_levels(two[number])).max() <= 1
    assert mean_difference(two[0], two[1]) > 1


def test_prompts_steer_and_guidance_how_far(model: Imagen) -> None:
    plain = model.generate_image(seed=2)
    weak, strong = (model.generate_image(CAPTION, seed=2, guidance=guidance) for guidance in (1.0, 8.0))
    assert 0 < mean_difference(plain, weak) < mean_difference(plain, strong)
    against = model.generate_image(CAPTION, seed=2, guidance=8.0, negative_prompt=OTHERS[1])
    assert mean_difference(against, strong) > 0
    assert model.generate_images([]) == []


def test_stages_have_settings_of_their_own_and_the_last_can_be_left_out(model: Imagen) -> None:
    steps: list[tuple[int, int, int]] = []
    images = model.generate_images(
        [CAPTION] * 3, batch=2, steps=[3, 2], guidance=[4.0, 1.0], progress=lambda *at: steps.append(at)
    )
    assert steps == [(0, 1, 3), (0, 2, 3), (0, 3, 3), (1, 1, 2), (1, 2, 2)] * 2
    assert [image.size for image in images] == [(32, 32)] * 3
    small = model.generate_image(CAPTION, stages=1)
    assert small.size == (16, 16)
    assert model(CAPTION, stages=1).images[0].tobytes() == small.tobytes()


def test_every_sampler_goes_to_the_same_picture_or_to_one_of_its_own(model: Imagen) -> None:
    dpm, ddim, ddpm = (
        model.generate_image(CAPTION, seed=3, sampler=sampler, steps=12) for sampler in ("dpm", "ddim", "ddpm")
    )
    assert mean_difference(dpm, ddim) < mean_difference(dpm, ddpm)
    mixed = model.generate_image(CAPTION, seed=3, sampler=["dpm", "ddpm"], steps=12)
    assert mean_difference(mixed, dpm) > 0
    assert model.generate_image(CAPTION, steps=1).size == (32, 32)


@pytest.mark.parametrize(
    "name", ["UniPCMultistep", "EulerDiscrete", "DEISMultistep", "DPMSolverSinglestep", "LMSDiscrete"]
)
def test_another_scheduler_of_diffusers_goes_the_same_way(model: Imagen, name: str) -> None:
    by_ours = model.generate_image(CAPTION, seed=3, steps=12)
    noised = model.restyle(by_ours, CAPTION, 0.4, steps=12, sampler="ddim")[0]
    for slot in ("scheduler", "scheduler_2"):
        setattr(model, slot, getattr(diffusers, f"{name}Scheduler").from_config(getattr(model, slot).config))
    assert mean_difference(model.generate_image(CAPTION, seed=3, steps=12), by_ours) < 2  # of 255 levels
    assert mean_difference(model.restyle(by_ours, CAPTION, 0.4, steps=12)[0], noised) < 2
    assert model.generate_image(CAPTION, seed=3, steps=12, sampler="dpm").tobytes() == by_ours.tobytes()


def test_an_ancestral_scheduler_draws_by_the_pictures_seed(model: Imagen) -> None:
    model.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(model.scheduler.config)
    alone = model.generate_image(CAPTION, seed=3)
    beside = model.generate_images([OTHERS[0], CAPTION], seed=3)[1]
    assert np.abs(pixel_levels(alone) - pixel_levels(beside)).max() <= 1


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscrete", "EDMEuler", "HeunDiscrete"])
def test_a_scheduler_that_does_not_fit_is_refused(model: Imagen, name: str) -> None:
    model.scheduler = getattr(diffusers, f"{name}Scheduler")()
    with pytest.raises(NotPossible, match=f"the {name}Scheduler does not fit the model of 16 pixels: make it with"):
        model.generate_image(CAPTION)


def test_a_scheduler_with_other_betas_is_refused(model: Imagen) -> None:
    model.scheduler_2 = diffusers.DDIMScheduler(prediction_type="v_prediction")
    with pytest.raises(NotPossible, match="the DDIMScheduler does not fit the model of 32 pixels"):
        model.generate_image(CAPTION)


def test_a_scheduler_that_would_stop_short_is_refused(model: Imagen) -> None:
    model.scheduler = diffusers.DDIMScheduler.from_config(model.scheduler.config)
    assert model.generate_image(CAPTION, steps=5).size == (32, 32)
    with pytest.raises(
        NotPossible, match="the DDIMScheduler takes steps of equal length: 6 steps do not divide the model's"
    ):
        model.generate_image(CAPTION)


def test_half_precision_makes_nearly_the_same_picture(model: Imagen) -> None:
    full = model.generate_image(CAPTION, seed=1)
    half = model.to("cpu", torch.bfloat16).generate_image(CAPTION, seed=1)
    assert model.unet_2.dtype == torch.bfloat16
    assert 0 < mean_difference(half, full) < 3


def test_models_are_moved_one_at_a_time_in_the_order_of_their_use(model: Imagen) -> None:
    expected = model.generate_image(CAPTION, seed=1)
    used: list[str] = []
    for slot in ("unet_2", "unet", "text_encoder"):
        getattr(model, slot).register_forward_pre_hook(lambda _, __, slot=slot: used.append(slot))
    model.enable_model_cpu_offload(device="cpu")
    assert model.generate_image(CAPTION, seed=1).tobytes() == expected.tobytes()
    moved = [name for hook in model._all_hooks for name, part in model.components.items() if part is hook.model]
    assert moved == list(dict.fromkeys(used)) == ["text_encoder", "unet", "unet_2"]


def test_painting_leaves_the_rest_as_it_is(model: Imagen, gradient_picture: Image.Image, mask: Image.Image) -> None:
    painted = model.inpaint(gradient_picture, mask, CAPTION, seed=1, repeats=2)
    assert np.array_equal(pixel_levels(painted)[:, :16], pixel_levels(gradient_picture)[:, :16])
    assert np.abs(pixel_levels(painted)[:, 16:] - pixel_levels(gradient_picture)[:, 16:]).mean() > 1
    assert mean_difference(painted, model.inpaint(gradient_picture, mask, CAPTION, seed=2, repeats=2)) > 0
    large = model.inpaint(gradient_picture.resize((50, 50)), mask.resize((50, 50)), CAPTION, repeats=1)
    shrunken = gradient_picture.resize((50, 50)).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(pixel_levels(large)[:, :15], pixel_levels(shrunken)[:, :15])


def test_what_is_kept_is_kept_at_every_stage(model: Imagen, gradient_picture: Image.Image, mask: Image.Image) -> None:
    low_res_inputs: list[torch.Tensor] = []
    model.unet_2.register_forward_pre_hook(
        lambda _, __, inputs: low_res_inputs.append(inputs["low_res"]), with_kwargs=True
    )
    model.inpaint(gradient_picture, mask, CAPTION, repeats=1, level=0.0, guidance=1.0)
    pixels = torch.from_numpy(pixel_levels(gradient_picture)).permute(2, 0, 1)[None] / 127.5 - 1
    expected = enlarge(shrink(pixels, 16), 32)
    torch.testing.assert_close(low_res_inputs[0][..., :15], expected[..., :15], atol=1e-5, rtol=0)
    assert (low_res_inputs[0][..., 18:] - expected[..., 18:]).abs().mean() > 0.01


def test_the_stronger_the_further_from_the_picture(model: Imagen, gradient_picture: Image.Image) -> None:
    near, far = (
        mean_difference(model.restyle(gradient_picture, CAPTION, strength)[0], gradient_picture)
        for strength in (0.2, 1.0)
    )
    assert near < far
    generated = model.generate_image(CAPTION, seed=4)
    assert model.restyle(gradient_picture, CAPTION, 1.0, seed=4)[0].tobytes() == generated.tobytes()


def test_variations_differ_from_each_other(model: Imagen, gradient_picture: Image.Image) -> None:
    variations = model.variations(gradient_picture, n=3)
    assert len(variations) == 3
    assert min(mean_difference(variations[at], variations[at - 1]) for at in range(3)) > 0.5
    assert variations[1].tobytes() == model.variations(gradient_picture, n=1, seed=1)[0].tobytes()


def test_each_stage_enlarges_alone() -> None:
    three = untrained_model((8, 16, 32))
    small = three.generate_image(stages=1)
    middle = three.upscale(small, stages=2)
    assert (small.size, middle.size) == ((8, 8), (16, 16))
    assert three.upscale(middle).size == three.upscale(small).size == (32, 32)
    steps: list[tuple[int, int, int]] = []
    three.upscale(middle, progress=lambda *at: steps.append(at))
    assert {stage for stage, _, _ in steps} == {2}
    with pytest.raises(NotPossible, match="an image of 32 pixels can't be enlarged: the models make sides of 16, 32"):
        three.upscale(three.upscale(small))


def test_a_model_without_text_takes_no_prompt(gradient_picture: Image.Image) -> None:
    silent = untrained_model((16, 32))
    assert silent.generate_image(seed=1).size == (32, 32)
    assert len(silent.variations(gradient_picture, n=2)) == 2
    for request in ({"prompts": CAPTION}, {"negative_prompt": CAPTION}):
        with pytest.raises(NotPossible, match="this model was trained without text: it takes no prompt"):
            silent.generate_images(**request)


def test_a_long_prompt_is_cut_and_its_rest_named(model: Imagen, capfd: pytest.CaptureFixture[str]) -> None:
    cut = {**model.config.text, "max_length": 5}
    model.register_to_config(text=cut)
    callables = [model.generate_image, model.generate_images, model]
    for call in callables:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            call("a red circle above a blue square", stages=1, steps=1)
        assert [str(warning.message) for warning in warned if warning.category is UserWarning] == [
            "the prompt is longer than 5 tokens; this part is ignored: 'a blue square'"
        ]
        assert warned[0].filename == __file__
    text = ("a red circle " * 400).strip()
    with pytest.warns(UserWarning, match="this part is ignored: 'red circle") as warned_again:
        vectors = model.encode([text])
    assert vectors is not None
    assert vectors[0].shape[1] == 5
    assert len(warned_again) == 1
    assert capfd.readouterr().err == ""


def test_a_prompt_that_cannot_be_read_is_refused(model: Imagen) -> None:
    with torch.no_grad():
        model.text_encoder.encoder.final_layer_norm.weight *= 1e9
    with pytest.raises(NotPossible, match="the prompt's embedding has values beyond what float16 holds: rephrase"):
        model.generate_image(CAPTION)
    model.register_modules(text_encoder=None)
    model.register_to_config(text={**model.config.text, "model": "nobody/nothing"})
    with pytest.raises(NotPossible, match="the text encoder nobody/nothing can't be loaded: "):
        model.generate_image(CAPTION)


def test_an_error_of_memory_says_what_needs_less(model: Imagen, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.unet_2, "forward", full)
    expected = "out of memory with 2 images at once of 32 pixels: lower the batch, stop at an earlier stage, or move"
    with pytest.raises(NotPossible, match=expected):
        model.generate_images(CAPTION, n=2)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("generate_images", {"prompts": " "}, "the prompt is empty: say what"),
    ("generate_images", {"prompts": [CAPTION, ""]}, "the prompt is empty: say what"),
    ("generate_images", {"n": 0}, "n and batch are 1 or more, not 0 and 16"),
    ("generate_images", {"batch": 0}, "n and batch are 1 or more, not 1 and 0"),
    ("generate_images", {"seed": -1}, "seed is a number from 0 to"),
    ("generate_images", {"stages": 0}, "the model has 2 stages: it can't be stopped after 0"),
    ("generate_images", {"stages": 3}, "the model has 2 stages: it can't be stopped after 3"),
    ("generate_images", {"guidance": 0.5}, "guidance can't be 0.5: Input should be greater than or equal to 1"),
    ("generate_images", {"guidance": [3.0, 0.5]}, "guidance can't be 0.5"),
    ("generate_images", {"guidance": [3.0] * 3}, "guidance has 3 values, and the model has 2 stages"),
    ("generate_images", {"guidence": 3.0}, "there is no setting 'guidence'; there are sampler, steps, guidance"),
    ("generate_images", {"interval": (0.0, "x")}, "interval can't be"),
    ("generate_images", {"sampler": "plms"}, "sampler can't be 'plms': Input should be 'dpm', 'ddim' or 'ddpm'"),
    ("generate_images", {"steps": 0}, "steps can't be 0"),
    ("generate_images", {"steps": 1001}, "steps can't be 1001: the model was trained with 1000"),
    ("upscale", {"stages": 1}, "an image of 20 pixels can't be enlarged: the models make sides of none"),
    ("restyle", {"strength": 0.0}, "strength is more than 0 and at most 1, not 0"),
    ("restyle", {"strength": 1.5}, "strength is more than 0 and at most 1, not 1.5"),
    ("variations", {"n": 0}, "n and batch are 1 or more"),
    ("inpaint", {"repeats": 0}, "repeats is 1 or more, not 0"),
    ("inpaint", {"sampler": "dpm"}, "inpainting repeats steps, which dpm can't do: take ddim or ddpm"),
    ("inpaint", {"sampler": ["ddim", "dpm"]}, "inpainting repeats steps, which dpm can't do"),
    ("inpaint", {"mask": Image.new("L", (20, 10))}, "the mask is 20 x 10 pixels and the image 20 x 20: make the"),
    ("inpaint", {"image": Image.new("RGB", (20, 12)), "mask": Image.new("L", (20, 12))}, "the image is 20 x 12 pix"),
    ("upscale", {"image": Image.new("RGB", (20, 12))}, "the image is 20 x 12 pixels: it has to be square, crop it"),
]


def test_what_is_not_possible_is_one_sentence(model: Imagen) -> None:
    for method, request, sentence in WRONG:
        needed: dict[str, Any] = {} if method == "generate_images" else {"image": Image.new("RGB", (20, 20))}
        if method == "inpaint":
            needed["mask"] = Image.new("L", (20, 20))
        with pytest.raises(NotPossible, match=sentence) as refused:
            getattr(model, method)(**needed | request)
        assert "\n" not in str(refused.value)
