"""Prompts that were never a caption, and whether a picture shows what its prompt says."""

import numpy as np
from PIL import Image

from data.world.draw import draw
from data.world.grammar import caption_of, claim_of
from data.world.prompts import measure_alignment, unseen_prompts
from data.world.scene import random_scene


def test_prompts_are_of_the_language_and_no_caption() -> None:
    prompts = unseen_prompts(frozenset(), 50, seed=3)
    again = unseen_prompts(set(prompts[:25]), 200, seed=3)
    assert len(set(again)) == 200
    assert not set(prompts[:25]) & set(again)
    for prompt in again:
        claim = claim_of(prompt)
        assert claim is not None
        assert len(claim.phrases) == 1
    for prompt in unseen_prompts(frozenset(), 50, shapes=2):
        claim = claim_of(prompt)
        assert claim is not None
        assert (len(claim.phrases), claim.relation is not None) == (2, True)


def test_true_pictures_are_right_and_those_of_others_are_not() -> None:
    rng = np.random.default_rng(5)
    scenes = [scene for scene in (random_scene(rng, 128, 128) for _ in range(200)) if len(scene.shapes) == 1]
    pictures = [Image.fromarray(draw(scene, rng)).resize((32, 32)) for scene in scenes]
    captions = [caption_of(scene, rng) for scene in scenes]
    true, false = measure_alignment(pictures, captions), measure_alignment(pictures[1:] + pictures[:1], captions)
    assert true.prompts == len(scenes) > 40
    assert true.share > 0.95
    assert true.sized <= true.right
    assert false.share < 0.15
