"""The world itself: the same in its seed, its faults in their shares, its captions true of its pixels."""

import json
from collections import Counter
from dataclasses import replace
from io import BytesIO
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.errors import WorldError
from data.lake.schemas import pair_id
from data.world.check import caption_is_true, find_shapes
from data.world.draw import draw
from data.world.grammar import caption_of, claim_of, plain_caption
from data.world.make import FAULTS, has_world, make_world, plan_pairs
from data.world.origin import Origin
from data.world.scene import is_true, random_scene
from tests.conftest import SMALL, UNSEEN_SEED


@pytest.mark.slow
def test_a_world_is_the_same_byte_for_byte_whoever_draws_it(world: Path, tmp_path: Path) -> None:
    make_world(tmp_path / "again", SMALL, UNSEEN_SEED, processes=1)
    files = sorted(path.relative_to(world) for path in world.rglob("*") if path.is_file())
    again = tmp_path / "again"
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [f for f in files if (world / f).read_bytes() != (again / f).read_bytes()] == []
    assert has_world(world, SMALL, UNSEEN_SEED)
    assert not has_world(world, SMALL, UNSEEN_SEED + 1)


@pytest.mark.slow
def test_a_world_whose_drawing_was_interrupted_is_drawn_again(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(done: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        make_world(tmp_path / "world", 50, 1, interrupt)
    assert not has_world(tmp_path / "world", 50, 1)
    with pytest.raises(WorldError, match="imagen world make"):
        Origin(tmp_path / "world")
    make_world(tmp_path / "world", 50, 1)
    assert has_world(tmp_path / "world", 50, 1)


def test_a_folder_that_is_no_world_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(WorldError, match="is not a world"):
        make_world(tmp_path, 20, 1)


def test_faults_come_in_their_exact_shares() -> None:
    specs = plan_pairs(2000, 3)
    counts = Counter(spec.fault for spec in specs)
    heals = sum(spec.behaviour == "heals" for spec in specs)
    for fault, share in FAULTS.items():
        assert counts[fault] == round(share * 2000) - (heals if fault == "fetch" else 0)
    assert Counter(spec.unusual_format is not None for spec in specs)[True] == 80
    assert len({spec.behaviour for spec in specs if spec.fault == "fetch"}) == 12


def test_labels_tell_the_truth(world: Path) -> None:
    labels = pq.read_table(world / "labels.parquet").to_pylist()
    pairs = pq.read_table(world / "pairs.parquet").to_pylist()
    assert [(row["url"], row["caption"]) for row in labels] == [(row["url"], row["caption"]) for row in pairs]
    assert all(row["id"] == pair_id(row["url"], row["caption"]) for row in labels)
    assert all("scene" in row and json.loads(row["scene"])["shapes"] for row in labels)
    by_url = {row["url"]: row for row in labels}
    for row in labels:
        if row["fault"] == "exact_duplicate":
            copy, original = (world / "pictures" / Path(url).name for url in (row["url"], row["duplicate_of"]))
            assert copy.read_bytes() == original.read_bytes()
            assert row["caption"] == by_url[row["duplicate_of"]]["caption"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("short", "quality"),
    [
        (64, 90),
        (None, None),
        pytest.param(64, None, marks=pytest.mark.nightly),
        pytest.param(128, None, marks=pytest.mark.nightly),
    ],
)
def test_the_checker_is_right_on_the_generators_own_pictures(short: int | None, quality: int | None) -> None:
    pictures, wrong, fooled, strangers = 120, 0, 0, 0
    samples = []
    for number in range(pictures):
        rng = np.random.default_rng([UNSEEN_SEED, 9, number])
        width = int(rng.integers(200, 601))
        scene = random_scene(rng, width, int(np.clip(width * rng.uniform(1 / 1.6, 1.6), 200, 600)))
        samples.append((scene, caption_of(scene, rng), Image.fromarray(draw(scene, rng))))
    for number, (scene, caption, image) in enumerate(samples):
        if short is not None:
            scale = short / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        if quality is not None:
            squeezed = BytesIO()
            image.save(squeezed, "JPEG", quality=quality)
            image = Image.open(squeezed)
        visible = {(shape.kind, shape.colour, shape.size) for shape in find_shapes(image)}
        expected = {(shape.kind, shape.colour, shape.size) for shape in scene.shapes}
        wrong += not caption_is_true(image, caption).true or visible != expected
        stranger = samples[(number + 17) % pictures][1]
        claim = claim_of(stranger)
        assert claim is not None
        if not is_true(claim, scene.shapes):
            strangers += 1
            fooled += caption_is_true(image, stranger).true
    assert wrong <= 0.01 * pictures
    assert fooled <= 0.01 * strangers


@pytest.mark.parametrize(
    ("caption", "claims"),
    [
        ("red circle above a big blue box", "above"),
        ("a red circle and a blue square", None),
        ("a red circle and a purple elephant", "nothing"),
        ("a red circle above a blue square above a green star", "nothing"),
        ("not a red circle", "nothing"),
    ],
)
def test_a_caption_is_understood_whole_or_not_at_all(caption: str, claims: str | None) -> None:
    claim = claim_of(caption)
    assert (claim.relation if claim else "nothing") == claims


def test_a_caption_of_another_language_is_no_claim() -> None:
    verdict = caption_is_true(Image.new("RGB", (64, 64), "white"), "un petit triangle vert")
    assert not verdict.true
    assert "names no shapes" in verdict.reasons[0]


def test_a_plain_caption_is_true_and_follows_from_the_picture_alone() -> None:
    rng = np.random.default_rng(17)
    for _ in range(300):
        scene = random_scene(rng, int(rng.integers(120, 300)), int(rng.integers(120, 300)))
        caption = plain_caption(scene)
        claim = claim_of(caption)
        assert claim is not None
        assert is_true(claim, scene.shapes)
        assert all(phrase.size for phrase in claim.phrases)
        assert (len(claim.phrases), claim.relation is None) == (len(scene.shapes), len(scene.shapes) == 1)
        for shapes in permutations(scene.shapes):
            assert plain_caption(replace(scene, shapes=shapes)) == caption
