"""A cascade's folder: where it can be, who can open it, and the messages about what is wrong with it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data.encoders.encoder import encode, load
from data.encoders.settings import EncoderSettings
from data.lake.lake import Lake
from data.reader.reader import Reader
from imagen.cascade.unet import UNet
from imagen.config.presets import TINY
from imagen.errors import ModelNotFound, ModelNotUsable
from imagen.models.folder import digest_of
from imagen.models.lora import add_lora, merge_lora
from imagen.models.model import Imagen
from imagen.models.table import find_model
from tests.conftest import Bucket
from tests.lakes.trained import CAPTION, untrained_model

CLIP = EncoderSettings(encoder="clip", model="built-in")

PLAIN = """
import hashlib, sys, warnings

class Ours:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("imagen", "data", "flows", "prefect"):
            raise ImportError(f"{name} is not available")

sys.meta_path.insert(0, Ours())
import torch
from diffusers import DiffusionPipeline

torch.set_num_threads(1)
trained, silent, clip = sys.argv[1:]
for folder, prompt in ((trained, "a large red circle above a small blue square"), (silent, None), (clip, None)):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
        image = pipe(prompt, seed=11).images[0]
    print(hashlib.sha256(image.tobytes()).hexdigest())
    print([str(warning.message) for warning in warned if "diffusers_modules" in warning.filename])
try:
    pipe("a red circle")
except ValueError as error:
    print(error)
"""


@pytest.fixture
def model_folder(one_model_lake: Lake, tmp_path: Path) -> Path:
    """A copy of the trained model's folder, to be damaged."""
    return Path(
        shutil.copytree(Path(one_model_lake.url, find_model(one_model_lake, "little/1").folder), tmp_path / "model")
    )


def clip_model() -> Imagen:
    encoded = encode(load(CLIP), [CAPTION], CLIP)
    text = {**CLIP.model_dump(mode="json"), "table": "embeddings/clip"}
    return untrained_model((16, 32), text, len(encoded["embedding"][0]) // 2 // encoded["length"][0])


def test_plain_diffusers_makes_the_same_picture(model_folder: Path, tmp_path: Path) -> None:
    silent, clip = untrained_model((16, 32)), clip_model()
    silent.save_pretrained(tmp_path / "silent")
    clip.save_pretrained(tmp_path / "clip")
    expected = [
        hashlib.sha256(image.tobytes()).hexdigest()
        for image in (
            Imagen.from_pretrained(model_folder).generate_image(CAPTION, seed=11),
            silent.generate_image(seed=11),
            clip.generate_image(seed=11),
        )
    ]
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, str(script), str(model_folder), str(tmp_path / "silent"), str(tmp_path / "clip")]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    *lines, refused = ran.stdout.splitlines()
    assert lines == [line for digest in expected for line in (digest, "[]")]
    assert refused == "prompts are encoded by the clip model 'built-in': load this folder with imagen.Imagen"


def test_a_model_comes_from_a_folder_a_url_or_a_lake(
    model: Imagen, one_model_lake: Lake, model_folder: Path, bucket: Bucket, s3_server: str
) -> None:
    url = bucket(s3_server) + "/models/mine"
    model.save_pretrained(url)
    expected = model.generate_image(CAPTION, seed=3)
    for where in (str(model_folder), model_folder, url):
        again = Imagen.from_pretrained(where)
        assert digest_of(again) == digest_of(model)
        assert again.generate_image(CAPTION, seed=3).tobytes() == expected.tobytes()
        assert again.config.text == model.config.text
    with pytest.raises(ModelNotFound, match=r"has no model little/2; there are: little/1"):
        Imagen.from_pretrained("little/2", one_model_lake.url)
    with pytest.raises(
        ModelNotFound, match=r"/none is neither a cascade's folder \(it has no model_index.json\) nor a lake"
    ):
        Imagen.from_pretrained(url + "/none")


def test_what_is_saved_is_what_is_loaded(model: Imagen, tmp_path: Path) -> None:
    half = model.to("cpu", torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    again = Imagen.from_pretrained(tmp_path / "half")
    for slot in ("unet", "unet_2"):
        ours, theirs = getattr(half, slot).state_dict(), getattr(again, slot).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(
            torch.equal(tensor, theirs[name]) and tensor.dtype == theirs[name].dtype for name, tensor in ours.items()
        )
    names = {path.relative_to(tmp_path / "half").as_posix() for path in (tmp_path / "half").rglob("*.*")}
    assert not [name for name in names if not name.endswith((".json", ".py", ".safetensors"))]
    full = Imagen.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert full.unet.dtype == torch.float32


def test_prompts_become_the_vectors_that_the_dataset_has(model: Imagen, one_model_lake: Lake) -> None:
    """Captions were read in filled batches, prompts alone: a stored number may be a step of float16 off."""
    steps, numbers = [], 0
    for sample in Reader(one_model_lake, "drawn", columns=("caption", "t5"), shuffle=False):
        vectors, mask = model.encode([sample["caption"]]) or (None, None)
        assert vectors is not None
        assert mask is not None
        assert mask.all()
        stored = sample["t5"].float()
        assert vectors[0].shape == stored.shape
        off = (vectors[0] - stored).abs() / (stored.abs() * 2**-10).clamp(min=2**-20)
        steps.append(off.max().item())
        numbers += (off > 0).sum().item()
    assert max(steps) <= 1
    assert numbers < 24 * 20


def test_a_clip_models_prompts_go_the_way_of_captions(tmp_path: Path) -> None:
    clip_model().save_pretrained(tmp_path / "clip")
    model = Imagen.from_pretrained(tmp_path / "clip")
    captions = [CAPTION, "a red circle"]
    encoded = encode(load(CLIP), captions, CLIP)
    vectors, mask = model.encode(captions) or (None, None)
    assert vectors is not None
    assert mask is not None
    for row, (stored, length) in enumerate(zip(encoded["embedding"], encoded["length"], strict=True)):
        assert mask[row].sum() == length
        expected = np.frombuffer(stored, np.float16).reshape(length, -1).astype(np.float32)
        assert np.array_equal(vectors[row, :length].numpy(), expected)
    first, second = (model.generate_image(caption, seed=1).tobytes() for caption in captions)
    assert first != second
    with pytest.warns(UserWarning, match="the prompt is too long for the clip model; its end is ignored") as warned:
        model.generate_image("a red circle above " * 60, stages=1)
    assert [warning.filename for warning in warned if warning.category is UserWarning] == [__file__]


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in {**content, **values}.items() if value != "gone"}))


def tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


WEIGHTS = "unet_2/diffusion_pytorch_model.safetensors"
DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda at: shutil.rmtree(at), r"model is neither a cascade's folder \(it has no model_index.json\)"),
    (
        lambda at: (at / WEIGHTS).rename(at / "unet_2/weights.bin"),
        r"unet_2/diffusion_pytorch_model.safetensors is miss.*"
        r"weights.bin is a pickle, which can run code",
    ),
    (
        lambda at: (at / WEIGHTS).unlink(),
        r"unet_2/diffusion_pytorch_model.safetensors is missing: weights are read from safetensors only",
    ),
    (lambda at: os.truncate(at / WEIGHTS, 5000), r"unet_2/.*safetensors is damaged, safetensors were expected"),
    (
        lambda at: tensors(at / WEIGHTS, lambda weights: weights.update({"first.bias": torch.zeros(7)})),
        r"unet_2/.*safetensors: first.bias has shape \(7,\), and the configuration expects \(16,\)",
    ),
    (
        lambda at: tensors(at / WEIGHTS, lambda weights: weights.pop("first.bias")),
        r"unet_2/.*safetensors lacks the tensor first.bias, which the configuration expects",
    ),
    (
        lambda at: tensors(at / WEIGHTS, lambda weights: weights.update({"more": torch.zeros(7)})),
        r"unet_2/.*safetensors has the tensor more, which the configuration does not expect",
    ),
    (lambda at: (at / "unet/config.json").write_text("{"), r"unet/config.json is damaged, JSON was expected"),
    (lambda at: (at / "unet/config.json").write_text("[]"), r"unet/config.json holds no JSON object"),
    (lambda at: (at / "unet/config.json").unlink(), r"unet/config.json is missing: every cascade's folder holds it"),
    (
        lambda at: change(at / "unet/config.json", _class_name="UNet2DModel"),
        r"unet/config.json describes a 'UNet2DModel', and not a UNet",
    ),
    (lambda at: change(at / "unet/config.json", channels=["a"]), r"unet/config.json does not describe a U-Net: "),
    (lambda at: (at / "model_index.json").write_text("{"), r"model_index.json is damaged, JSON was expected"),
    (
        lambda at: change(at / "model_index.json", _class_name="StableDiffusionPipeline"),
        r"model_index.json describes a 'StableDiffusionPipeline', and not a cascade of imagen",
    ),
    (
        lambda at: change(at / "model_index.json", _imagen_format=2),
        r"model_index.json has format 2, this version reads up to 1. Upgrade: pip install -U imagen",
    ),
    (
        lambda at: change(at / "model_index.json", stages=[{}, {}]),
        r"model_index.json: stages can't be read: 'diffusion'",
    ),
    (lambda at: change(at / "model_index.json", unet_2="gone"), r"model_index.json names unet for 2 stages"),
    (
        lambda at: change(at / "model_index.json", scheduler=["diffusers", "Wishful"]),
        r"model_index.json: scheduler is 'Wishful', and not a scheduler of diffusers",
    ),
    (lambda at: (at / "scheduler_2/scheduler_config.json").unlink(), r"scheduler_2/scheduler_config.json is missing"),
    (lambda at: os.truncate(at / "text_encoder/model.safetensors", 5000), r"text_encoder .*can't be read: "),
    (
        lambda at: tensors(
            at / "text_encoder/model.safetensors", lambda weights: weights.pop("encoder.final_layer_norm.weight")
        ),
        r"text_encoder .*can't be read: .* lacks the tensor encoder.final_layer_norm.weight",
    ),
    (
        lambda at: (at / "text_encoder/model.safetensors").rename(at / "text_encoder/pytorch_model.bin"),
        r"text_encoder/pytorch_model.bin is a pickle, which can run code",
    ),
    (
        lambda at: shutil.rmtree(at / "tokenizer"),
        r"tokenizer lacks tokenizer.json or spiece.model",
    ),
    (lambda at: (at / "tokenizer/tokenizer.json").write_text("{"), r"tokenizer .*can't be read: "),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES, ids=[str(number) for number in range(len(DAMAGES))])
def test_what_is_wrong_with_a_folder_is_one_sentence(
    model_folder: Path, damage: Callable[[Path], Any], sentence: str
) -> None:
    damage(model_folder)
    with pytest.raises((ModelNotUsable, ModelNotFound), match=sentence) as refused:
        Imagen.from_pretrained(model_folder)
    assert "\n" not in str(refused.value)
    assert str(model_folder) in str(refused.value)


def test_the_folder_names_its_own_code_and_no_other_of_ours(model_folder: Path) -> None:
    code = sorted(path.relative_to(model_folder).as_posix() for path in model_folder.rglob("*.py"))
    assert [name for name in code if "/" not in name] == [
        "checks.py",
        "diffusion.py",
        "pipeline.py",
        "prompts.py",
        "resize.py",
        "sampling.py",
        "settings.py",
    ]
    for name in code:
        own = (model_folder / name).parent
        lines = [
            line for line in (model_folder / name).read_text().splitlines() if line.startswith(("import ", "from "))
        ]
        assert not [line for line in lines if line.split()[1].partition(".")[0] in ("imagen", "data", "flows")]
        for line in lines:
            if line.startswith("from ."):
                assert (own / f"{line.split()[1][1:]}.py").is_file()
    beside = {path.stem for path in model_folder.glob("*.py")} - {"pipeline"}
    directly = {
        line.split()[1][1:]
        for line in (model_folder / "pipeline.py").read_text().splitlines()
        if line.startswith("from .")
    }
    assert directly == beside


@dataclass(frozen=True)
class LowRank:
    """A U-Net before and after its low-rank weights were added, changed and merged."""

    outputs: dict[str, torch.Tensor]  # after each
    plain: dict[str, torch.Tensor]  # its weights before
    merged: dict[str, torch.Tensor]  # and after all
    learning: list[str]  # names of the weights that learn, once they were added


@pytest.fixture(scope="module", params=[0, 1])
def low_rank(request: pytest.FixtureRequest) -> LowRank:
    stage: int = request.param
    torch.manual_seed(0)
    unet, rng = UNet(**TINY.unet_arguments(stage)).eval(), torch.Generator().manual_seed(1)
    for parameter in unet.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=rng)
    side = TINY.stages[stage].resolution
    inputs: dict[str, Any] = {"pixels": torch.randn(2, 3, side, side), "time": torch.tensor([3.0, 700.0])}
    inputs |= {"text": torch.randn(2, 4, 128), "mask": torch.ones(2, 4, dtype=torch.bool)}
    if stage:
        inputs |= {"low_res": torch.randn(2, 3, side, side), "noise_level": torch.tensor([0.1, 0.2])}
    plain = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    with torch.no_grad():
        outputs = {"before": unet(**inputs)}
        add_lora(unet, 4, 8)
        outputs["added"] = unet(**inputs)
        learning = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
        outputs["changed"] = unet(**inputs)
        merge_lora(unet)
        outputs["merged"] = unet(**inputs)
    return LowRank(outputs, plain, dict(unet.state_dict()), learning)


def test_low_rank_weights_change_nothing_before_they_have_learnt(low_rank: LowRank) -> None:
    assert torch.equal(low_rank.outputs["added"], low_rank.outputs["before"])


def test_low_rank_weights_alone_learn(low_rank: LowRank) -> None:
    assert low_rank.learning
    assert all("lora_" in name for name in low_rank.learning)
    assert not torch.allclose(low_rank.outputs["changed"], low_rank.outputs["before"], atol=1e-2)


def test_merged_low_rank_weights_are_changes_of_attention(low_rank: LowRank) -> None:
    torch.testing.assert_close(low_rank.outputs["merged"], low_rank.outputs["changed"], atol=1e-5, rtol=1e-5)
    plain, merged = low_rank.plain, low_rank.merged
    assert merged.keys() == plain.keys()
    differ = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert differ
    assert all("attention" in name for name in differ)
