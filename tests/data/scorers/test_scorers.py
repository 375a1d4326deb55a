"""What each scorer says, on cases whose answer is known; and that a picture is decoded once for all of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import nn

import data.scorers.stages
from data.build.recipe import parse_recipe
from data.engine.stage import Stage, run_stage
from data.errors import ModelError
from data.lake.lake import Lake
from data.lake.schemas import IMAGES, PAIRS, pair_id
from data.lake.shard_file import write_file
from data.pictures.prepare import decode
from data.scorers import PictureScorer, VectorScorer
from data.scorers.caption import Caption, count_personal_data
from data.scorers.clip import BUILT_IN, ClipScore
from data.scorers.heads import Aesthetic, Safety
from data.scorers.phash import PerceptualHash
from data.scorers.pixels import PictureFacts
from data.scorers.stages import ScorePictures, ScoreVectors
from data.world.draw import draw
from data.world.scene import random_scene
from tests.engines import InProcessEngine
from tests.lakes.empty import rows_of
from tests.servers.small_world import jpeg


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a large red circle above a small blue square", {"words": 9, "characters": 44, "language": "en", "pii": 0}),
        ("ein kleiner grüner Stern links von einem Dreieck", {"language": "de"}),
        ("большая жёлтая звезда над маленьким кругом", {"language": "ru", "alphabetic": 1.0}),
        ("", {"words": 0, "characters": 0, "language": None, "english": 0.0, "alphabetic": 0.0, "repetition": 0.0}),
        ("IMG_2041.jpg", {"words": 1, "remains": 1}),
        ("<b>sale</b> &amp; more at www.shop.test", {"remains": 4}),
        ("buy buy buy buy now", {"repetition": 3 / 5}),
        ("What the fuck, porn!", {"profanity": 2}),
        ("scunthorpe cockerel", {"profanity": 0}),
    ],
)
def test_a_caption_is_read(caption: str, expected: dict[str, Any]) -> None:
    scores = Caption().read(caption)
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("write to jane.doe+x@mail.example.org", 1),
        ("call +44 20 7946 0958 or (030) 123-4567", 2),
        ("card 4111 1111 1111 1111", 1),
        ("number 4111 1111 1111 1112", 0),
        ("server at 192.168.0.17", 1),
        ("version 1.2.3, 12 x 30 cm, 1920x1080, in 1999-2004", 0),
        ("a photo of 3 cats", 0),
    ],
)
def test_personal_data_is_counted(text: str, count: int) -> None:
    assert count_personal_data(text) == count


def test_english_is_english() -> None:
    scores = Caption().read("the quick brown fox jumps over the lazy dog and runs away")
    assert scores["language"] == "en"
    assert scores["english"] == scores["language_probability"] > 0.8


def test_a_picture_is_measured() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8))
    facts = PictureFacts().look
    white = facts(Image.new("RGB", (300, 100), "white"))
    assert white == {"blur": 0, "brightness": 1, "contrast": 0, "entropy": 0, "border": 1, "colour": 0}
    assert facts(noise)["blur"] > 10 * facts(noise.filter(ImageFilter.GaussianBlur(3)))["blur"]
    assert facts(noise)["entropy"] > 7
    assert facts(noise.convert("L").convert("RGB"))["colour"] == 0
    framed = Image.new("RGB", (200, 200), "black")
    framed.paste(noise.resize((100, 100)), (50, 50))
    assert facts(framed)["border"] == pytest.approx(0.75, abs=0.02)


@dataclass(frozen=True)
class Run:
    """How many rows a stage wrote, and how many pictures it decoded."""

    rows: int
    decoded: int


@dataclass(frozen=True)
class ScoredLake:
    """A lake of 20 pictures and one file that is none, and the runs of the stages that scored them."""

    lake: Lake
    clip: ClipScore
    scorers: tuple[PictureScorer, ...]
    first: Run  # two scorers
    more: Run  # these and others
    again: Run  # the same
    judged: Run  # CLIP's score, from vectors


@pytest.fixture(scope="module")
def scored_lake(tmp_path_factory: pytest.TempPathFactory) -> ScoredLake:
    lake = lake_of(tmp_path_factory.mktemp("scored"), [jpeg(seed=n) for n in range(20)] + [b"no picture"])
    clip = ClipScore(model="built-in", flip=True)
    two = (PictureFacts(), PerceptualHash())
    scorers = (*two, *clip.inputs())
    decoded: list[bytes] = []

    def run(stage: Stage) -> Run:
        before = len(decoded)
        return Run(run_stage(lake, stage, InProcessEngine(), 8), len(decoded) - before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.scorers.stages, "decode", lambda body: decoded.append(body) or decode(body))
        look = ScorePictures(lake, scorers)
        runs = [run(ScorePictures(lake, two)), run(look), run(look), run(ScoreVectors(lake, clip, "score-clip"))]
    return ScoredLake(lake, clip, scorers, *runs)


def test_a_picture_is_decoded_once_for_all_scorers(scored_lake: ScoredLake) -> None:
    assert scored_lake.first == Run(rows=21, decoded=21)


def test_added_scorers_decode_each_picture_a_second_time_and_then_never_again(scored_lake: ScoredLake) -> None:
    assert scored_lake.more == Run(rows=21, decoded=21)
    assert scored_lake.again == Run(rows=0, decoded=0)


def test_a_head_reads_vectors_and_decodes_no_picture(scored_lake: ScoredLake) -> None:
    assert scored_lake.judged == Run(rows=21, decoded=0)


def test_a_file_that_is_no_picture_is_a_row_with_its_error_in_every_table(scored_lake: ScoredLake) -> None:
    for scorer in scored_lake.scorers:
        rows = rows_of(scored_lake.lake, scorer.table)
        assert len(rows) == len({row["id"] for row in rows}) == 21
        failed = [row for row in rows if row["error"]]
        assert len(failed) == 1
        assert "cannot identify image" in failed[0]["error"]
        assert all(failed[0][name] is None for name in scorer.columns.names)


def test_a_file_that_is_no_picture_has_no_score_of_a_head(scored_lake: ScoredLake) -> None:
    rows = rows_of(scored_lake.lake, scored_lake.clip.table)
    assert sum(row["score"] is None for row in rows) == sum(row["error"] is not None for row in rows) == 1


def test_the_score_is_the_cosine_that_open_clip_itself_gives() -> None:
    rng = np.random.default_rng(6)
    pictures = [Image.fromarray(draw(random_scene(rng, 200, 150), rng)) for _ in range(5)]
    captions = ["a red circle", "a blue star", "a red circle", "", "two squares"]
    clip = ClipScore(model="built-in", flip=True)
    vectors = []
    for tower in clip.inputs():
        packed = b"".join(tower.score_batch([tower.look(picture) for picture in pictures])["vector"])
        vectors.append(np.frombuffer(packed, "<f2").reshape(5, -1).astype(np.float32))
    scores = clip.judge(vectors, captions)
    name = f"local-dir:{BUILT_IN}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(captions)
    with torch.inference_mode():
        texts = model.eval().encode_text(tokens, normalize=True)
        for column, column_pictures in (
            ("score", pictures),
            ("flipped", [picture.transpose(0) for picture in pictures]),
        ):
            images = model.encode_image(
                torch.stack([transform(picture) for picture in column_pictures]), normalize=True
            )
            assert scores[column] == pytest.approx((images * texts).sum(-1).tolist(), abs=2e-4)


@pytest.mark.parametrize("form", ["linear.pth", "mlp.safetensors"])
def test_a_head_says_what_its_layers_say(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(64, 1)] if form == "linear.pth" else [nn.Linear(64, 16), nn.Dropout(), nn.Linear(16, 1)]
    head = nn.Sequential(*layers).eval()
    path = tmp_path / form
    if form == "linear.pth":
        torch.save(layers[0].state_dict(), path)  # names without numbers, as LAION's
    else:
        save_file(head.state_dict(), path)
    vectors = np.random.default_rng(0).standard_normal((7, 64)).astype(np.float32)
    scores = Aesthetic(model="built-in", weights=str(path)).judge([vectors], [""] * 7)["score"]
    assert scores == pytest.approx(head(torch.from_numpy(vectors)).squeeze(1).tolist(), abs=1e-3)
    other = Safety(model="built-in", weights=str(path))
    assert 0 <= min(other.judge([vectors], [""] * 7)["probability"]) <= 1
    with pytest.raises(ModelError, match="takes vectors of 64 numbers, built-in gives 32"):
        other.judge([vectors[:, :32]], [""] * 7)
    assert other.id != Safety(model="built-in").id


def test_zero_shot_prefers_the_prompt_that_is_nearer() -> None:
    clip = Safety(model="built-in", prompts=("a red circle",), others=("a blue square", "a green star"))
    vectors = clip.texts(["a red circle", "a blue square"])
    near, far = clip.judge([vectors], ["", ""])["probability"]
    assert near > 0.9
    assert far < 0.1


def test_a_scorer_of_ones_own_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "roundness.py").write_text(
        "import pyarrow as pa\nfrom data.scorers import PictureScorer\n\n"
        "class Roundness(PictureScorer):\n"
        "    columns = pa.schema({'ratio': pa.float32()})\n\n"
        "    def look(self, picture):\n"
        "        return {'ratio': min(picture.size) / max(picture.size)}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = parse_recipe(
        "name: x\nsources: [{path: p.csv}]\nscores:\n  round: {scorer: roundness.Roundness}\n"
        "select:\n  - round_ratio: {min: 0.5}\n",
        "x.yaml",
    )
    scorer = recipe.scores["round"]
    lake = lake_of(tmp_path, [jpeg(64, 48)])
    assert run_stage(lake, ScorePictures(lake, (scorer,)), InProcessEngine(), 8) == 1
    assert lake.table("scores/roundness-1").dataset().to_table()["ratio"].to_pylist() == [0.75]


class OldMean(PictureScorer):
    """Written for 0.1.0, by the names that its methods had then."""

    columns = pa.schema({"mean": pa.float32()})

    @property
    def at_once(self) -> int:
        return 2

    def look(self, picture: Image.Image) -> float:
        return float(np.asarray(picture).mean())

    def say(self, looks: list[float]) -> dict[str, list[float]]:
        assert len(looks) <= 2
        return {"mean": looks}


class SayTwice:
    """Part of a scorer that was written for 0.1.0, in a class of its own."""

    def say(self, looks: list[float]) -> dict[str, list[float]]:
        return {"mean": [2 * look for look in looks]}


class OldTwice(SayTwice, PictureScorer):
    columns = pa.schema({"mean": pa.float32()})

    def look(self, picture: Image.Image) -> float:
        return float(np.asarray(picture).mean())


class OldDifference(VectorScorer):
    columns = pa.schema({"difference": pa.float32()})

    def sees(self) -> tuple[PictureScorer, ...]:
        return ClipScore(model="built-in", flip=True).sees()  # type: ignore[attr-defined]  # its old name

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> dict[str, list[float]]:
        return {"difference": np.abs(vectors[0] - vectors[1]).mean(1).tolist()}


def test_a_scorer_with_the_method_names_of_the_last_release_still_runs(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [jpeg(seed=n) for n in range(3)])
    old = OldDifference()
    assert run_stage(lake, ScorePictures(lake, (OldMean(), *old.inputs())), InProcessEngine(), 8) == 3
    assert run_stage(lake, ScoreVectors(lake, old, "score-old"), InProcessEngine(), 8) == 3
    assert min(lake.table("scores/old-mean-1").dataset().to_table()["mean"].to_pylist()) > 0
    assert min(lake.table("scores/old-difference-1").dataset().to_table()["difference"].to_pylist()) > 0


class SettingOfAName(PictureScorer):
    """Written for 0.1.0, with a setting whose name is a method's now."""

    columns = pa.schema({"size": pa.int32()})

    max_batch: int = 16

    @property
    def at_once(self) -> int:
        return self.max_batch

    def look(self, picture: Image.Image) -> None:
        return None

    def say(self, looks: list[None]) -> dict[str, list[int]]:
        return {"size": [len(looks)] * len(looks)}


class InputsOfAName(OldDifference):
    inputs: str = "x"  # type: ignore[assignment]  # as VectorScorer of 0.1.0 allows


@pytest.mark.filterwarnings("ignore:Field name")
def test_a_setting_may_have_the_name_of_a_method_that_was_renamed(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [jpeg(seed=n) for n in range(5)])
    scorer, difference = SettingOfAName(max_batch=2), InputsOfAName(inputs="y")
    assert (scorer.max_batch, difference.inputs) == (2, "y")
    pictures = ScorePictures(lake, (scorer, *difference.sees()))
    assert run_stage(lake, pictures, InProcessEngine(), 8) == 5
    assert sorted(lake.table(scorer.table).dataset().to_table()["size"].to_pylist()) == [1, 2, 2, 2, 2]
    assert run_stage(lake, ScoreVectors(lake, difference, "score-inputs"), InProcessEngine(), 8) == 5


def test_an_old_method_name_counts_in_a_base_class_that_is_no_scorer(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [jpeg(seed=n) for n in range(3)])
    assert run_stage(lake, ScorePictures(lake, (OldMean(), OldTwice())), InProcessEngine(), 8) == 3
    means, doubled = (
        lake.table(f"scores/{name}-1").dataset().to_table().sort_by("id")["mean"].to_numpy()
        for name in ("old-mean", "old-twice")
    )
    assert doubled == pytest.approx(2 * means)


def lake_of(folder: Path, pictures: list[bytes]) -> Lake:
    lake = Lake.make(str(folder / "lake"), buckets=1)
    ids = [pair_id(str(n), "a cat") for n in range(len(pictures))]
    pairs = [{"id": id, "url": id, "caption": "a red circle"} for id in ids]
    images = [{"id": id, "image": picture} for id, picture in zip(ids, pictures, strict=True)]
    for name, schema, rows in (("pairs", PAIRS, pairs), ("images", IMAGES, images)):
        table = lake.table_or_make(name, schema)
        table.append([write_file(table.url, 0, pa.Table.from_pylist(rows, schema))])
    return lake
