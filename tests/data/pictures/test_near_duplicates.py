"""Near-duplicates: against a comparison of all pairs, against the rule of which row is kept, and after an increment."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.pictures.clusters import near_vector_pairs
from data.pictures.near_duplicates import (
    THUMBNAIL_DISTANCE,
    find_leaders,
    leaders_of_pairs,
    near_hash_pairs,
    near_thumbnail_pairs,
)
from data.pictures.phash import perceptual_hash
from data.scorers.phash import PerceptualHash
from data.world.draw import draw
from data.world.make import _near_duplicate
from data.world.scene import random_scene


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 12), pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30))
def test_the_first_stays_and_whoever_is_like_one_that_stays_goes(count: int, pairs: list[tuple[int, int]]) -> None:
    alike = {(min(p), max(p)) for p in pairs if p[0] != p[1] and max(p) < count}
    leader = leaders_of_pairs(count, np.array(sorted(alike), np.int64).reshape(-1, 2))
    for row in range(count):
        earlier = [first for first, later in alike if later == row and leader[first] < 0]
        assert leader[row] == (min(earlier) if earlier else -1)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_an_increment_never_changes_what_was_found_before(data: st.DataObject) -> None:
    size, distance = data.draw(st.integers(2, 30)), data.draw(st.integers(0, 4))
    hashes = np.array(data.draw(st.lists(st.integers(0, 255), min_size=size, max_size=size)), np.uint64)
    leaders = find_leaders(hashes, lambda rows: near_hash_pairs(rows, distance))
    for part in range(1, size):
        assert (find_leaders(hashes[:part], lambda rows: near_hash_pairs(rows, distance)) == leaders[:part]).all()


@pytest.mark.parametrize("distance", [0, 1, 3, 5])
def test_no_pair_of_near_hashes_is_missed(distance: int) -> None:
    rng = np.random.default_rng(distance)
    hashes = rng.integers(0, 2**63, 300, dtype=np.uint64)
    flips = [np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, distance + 1).astype(np.uint64)) for _ in range(200)]
    hashes = np.concatenate([hashes, hashes[:200] ^ np.array(flips, np.uint64)])
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    wanted = {(int(a), int(b)) for a, b in np.argwhere(apart <= distance) if a < b}
    assert set(map(tuple, near_hash_pairs(hashes, distance).tolist())) == wanted


@pytest.mark.parametrize("distance", [0.01, 0.05, 0.2])
def test_every_pair_of_vectors_of_a_cosine_is_found_and_no_other(distance: float) -> None:
    rng = np.random.default_rng(1)
    topics = rng.standard_normal((40, 48))
    vectors = topics[rng.integers(0, 40, 3000)] + 0.9 * rng.standard_normal((3000, 48))
    near = vectors[:900] + rng.uniform(0.02, 0.6, (900, 1)) * rng.standard_normal((900, 48))
    every = np.concatenate([vectors, near, vectors[:5]]).astype(np.float32)
    every /= np.linalg.norm(every, axis=1, keepdims=True)
    cosines = np.triu(every @ every.T, 1)
    pairs = set(map(tuple, near_vector_pairs(every, distance).tolist()))
    assert len(pairs) > 200
    assert pairs >= {(int(a), int(b)) for a, b in np.argwhere(cosines >= 1 - distance + 1e-5)}
    assert pairs <= {(int(a), int(b)) for a, b in np.argwhere(cosines >= 1 - distance - 1e-5)}
    part = {pair for pair in pairs if pair[1] < 2000}
    assert set(map(tuple, near_vector_pairs(every[:2000], distance).tolist())) == part


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_few_vectors_are_compared_too(count: int) -> None:
    same = np.tile(np.float32([[0.6, 0.8]]), (count, 1))
    assert len(near_vector_pairs(same, 0.01)) == count * (count - 1) // 2


def test_a_placeholder_that_is_there_ten_thousand_times_costs_nothing() -> None:
    rng = np.random.default_rng(2)
    thumbnails = np.concatenate([np.zeros((10_000, 192), np.uint8), rng.integers(0, 256, (50, 192), np.uint8)])
    leader = find_leaders(thumbnails, lambda rows: near_thumbnail_pairs(rows, THUMBNAIL_DISTANCE))
    assert leader[0] == -1
    assert (leader[1:10_000] == 0).all()
    assert (leader[10_000:] == -1).all()


def test_recompressed_rescaled_and_cropped_pictures_look_alike_and_strangers_do_not() -> None:
    scorer, count = PerceptualHash(), 120
    pictures = []
    for number in range(count):
        rng = np.random.default_rng([77, number])
        pictures.append(Image.fromarray(draw(random_scene(rng, 400, 300), rng)))
    pictures += [_near_duplicate(picture, np.random.default_rng([78, n])) for n, picture in enumerate(pictures)]
    thumbnails = np.array([np.frombuffer(scorer.look(picture)["thumbnail"], np.uint8) for picture in pictures])
    leader = find_leaders(thumbnails, lambda rows: near_thumbnail_pairs(rows, THUMBNAIL_DISTANCE))
    right = (leader[count:] == np.arange(count)).mean()
    assert right >= 0.95
    assert (leader[:count] == -1).all()


def test_the_hash_bears_another_size_and_encoding() -> None:
    rng = np.random.default_rng(3)
    picture = Image.fromarray(draw(random_scene(rng, 400, 300), rng))
    small = picture.resize((200, 150), Image.Resampling.LANCZOS)
    assert (perceptual_hash(picture) ^ perceptual_hash(small)).bit_count() <= 4
    assert (perceptual_hash(picture) ^ perceptual_hash(picture.transpose(Image.Transpose.ROTATE_90))).bit_count() > 10
