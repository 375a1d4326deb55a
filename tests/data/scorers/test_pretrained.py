"""A model's files and their digest: whole or in shards, in a folder or in the hub's cache, and read once."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from huggingface_hub import constants
from transformers import T5EncoderModel

from data.encoders.encoder import encoder_of
from data.encoders.settings import BUILT_IN, EncoderSettings
from data.scorers import pretrained


def test_a_large_file_is_read_once_while_its_size_and_time_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "SMALL", 8)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"first weights")
    os.utime(file, ns=(0, 10**18))
    first = hashlib.sha256(b"first weights").hexdigest()
    assert pretrained.digest_file(file) == first
    file.write_bytes(b"other weights")
    os.utime(file, ns=(0, 10**18))
    assert pretrained.digest_file(file) == first, "it was not read again"
    os.utime(file, ns=(0, 2 * 10**18))
    assert pretrained.digest_file(file) == hashlib.sha256(b"other weights").hexdigest()
    (tmp_path / "no folder").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    assert pretrained.digest_file(file) == hashlib.sha256(b"other weights").hexdigest()


def test_a_model_in_shards_is_whole_only_with_all_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(BUILT_IN, folder)
    (folder / "model.safetensors").unlink()
    T5EncoderModel.from_pretrained(BUILT_IN, dtype=torch.float16).save_pretrained(folder, max_shard_size="300KB")
    files = pretrained.model_files(folder)
    assert sum(file.suffix == ".safetensors" for file in files) > 1
    sharded = encoder_of(EncoderSettings(encoder="t5", model=str(folder)))
    single_file = encoder_of(EncoderSettings(encoder="t5", model="built-in"))
    assert sharded.encode(["a red circle"]) == single_file.encode(["a red circle"])
    files[0].unlink()
    assert pretrained.model_files(folder) == []


def test_a_tokenizer_in_sentencepieces_own_format_is_read(tmp_path: Path) -> None:
    """As `google/t5-v1_1-*` have it: no tokenizer.json."""
    folder = tmp_path / "google"
    shutil.copytree(BUILT_IN, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 0}')
    lines = [f"a {size} {colour} circle" for size in ("large", "small") for colour in ("red", "blue", "green")] * 20
    specials = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    files = {"sentence_iterator": iter(lines), "model_prefix": str(folder / "spiece")}
    sentencepiece.SentencePieceTrainer.train(**files, **specials, vocab_size=40, hard_vocab_limit=False, minloglevel=2)
    columns = encoder_of(EncoderSettings(encoder="t5", model=str(folder))).encode(["a large red circle", ""])
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert columns["length"] == [len(model.encode("a large red circle")) + 1, 1]


def test_a_model_in_the_hubs_cache_is_found_offline_and_never_read_for_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--someone--small-t5"
    snapshot = place / "snapshots" / ("c" * 40)
    for folder in (place / "blobs", place / "refs", snapshot):
        folder.mkdir(parents=True)
    (place / "refs" / "main").write_text("c" * 40)
    for file in BUILT_IN.iterdir():
        blob = place / "blobs" / ("d" * 64 if file.suffix == ".safetensors" else f"{len(file.name):040x}")
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    assert pretrained.digest_file(snapshot / "model.safetensors") == "d" * 64
    assert pretrained.digest_file(snapshot / "config.json") == pretrained.digest_file(BUILT_IN / "config.json")
    encoder = encoder_of(EncoderSettings(encoder="t5", model="someone/small-t5"))
    assert encoder.id.startswith("t5-1-small-t5-")
    assert encoder.encode(["a red circle"])["length"] == [4]
