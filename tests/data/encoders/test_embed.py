"""Embeddings: each kept text once, whoever is killed; the encoders' own outputs; joined into what is published."""

import json
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertConfig, BertModel, T5EncoderModel

from data.build.build import BuildResult, finish_build
from data.build.pipeline import Pipeline, make_pipeline
from data.build.recipe import Recipe
from data.encoders.embed import Embed, read_embeddings
from data.encoders.encoder import batches, encoder_of
from data.encoders.settings import BUILT_IN, EncoderSettings
from data.engine.stage import make_plan, run_stage
from data.errors import ModelError
from data.lake.lake import Lake
from data.lake.schemas import EMBEDDINGS, IMAGES, PAIRS, VERDICTS, bucket_of, pair_id, text_id
from data.lake.shard_file import write_file
from data.lake.sql import query
from data.scorers import clip
from tests.engines import InProcessEngine
from tests.lakes.empty import unprobed_lake
from tests.servers.small_world import jpeg
from tests.shared import copy_of

T5 = EncoderSettings(encoder="t5", model="built-in")
CAPTIONS = [
    "a red circle",
    "",
    "a large blue square above a small green star",
    "Ein roter Kreis, 大きな 赤い 円!",
    "a small purple ring to the left of an orange cross and a yellow triangle, and so on, and on",
    *(
        f"a {size} {colour} {kind}"
        for size in ("large", "small")
        for colour in ("red", "blue")
        for kind in ("star", "ring")
    ),
]
WORDS = ["a", "red", "blue", "large", "small", "circle", "star", "of", "the", "in"]


def judge(lake: Lake, rows: Iterable[tuple[str, str, bool]]) -> None:
    """Write pairs with URL, caption and whether they are kept to all tables that a build fills up to the verdicts."""
    defaults = {"source": "here", "first_seen": datetime.now(UTC), "reasons": [], "image": jpeg(), "sha256": "0"}
    sizes = {"width": 64, "height": 48, "original_width": 64, "original_height": 48}
    pairs = [{"id": pair_id(url, caption), "url": url, "caption": caption, "kept": kept} for url, caption, kept in rows]
    for name, schema in (("pairs", PAIRS), ("images", IMAGES), ("verdicts/shapes", VERDICTS)):
        table = lake.table_or_make(name, schema)
        files = []
        for bucket in lake.buckets:
            bucket_rows = [
                row | defaults | sizes for row in pairs if bucket_of(row["id"], lake.config.buckets) == bucket
            ]
            files += [write_file(table.url, bucket, pa.Table.from_pylist(bucket_rows, schema))] if bucket_rows else []
        table.append(files, {"inputs": {}})


def stage_of(lake: Lake, settings: EncoderSettings = T5) -> Embed:
    return Embed(lake, "shapes", encoder_of(settings), "embed-t5")


def embedded(lake: Lake, stage: Embed) -> dict[str, dict[str, Any]]:
    rows = lake.table(stage.table).dataset().to_table().to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def vectors(row: dict[str, Any], dtype: str = "float16") -> torch.Tensor:
    return torch.frombuffer(bytearray(row["embedding"]), dtype=getattr(torch, dtype)).float().view(row["length"], -1)


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.fixture
def empty(tmp_path: Path) -> Lake:
    return Lake.make(str(tmp_path / "lake"))


@given(captions=st.lists(st.text(), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_sql_and_python_name_and_place_a_text_alike(captions: list[str]) -> None:
    ids = query("SELECT left(sha256(caption), 32) AS id FROM texts", texts=pa.table({"caption": captions}))
    assert sorted(ids["id"].to_pylist()) == sorted(text_id(caption) for caption in captions)


def test_a_text_is_encoded_once_however_many_kept_pairs_carry_it(empty: Lake) -> None:
    rows = [(f"http://a.test/{n}", CAPTIONS[n % len(CAPTIONS)], True) for n in range(60)]
    judge(empty, [*rows, ("http://a.test/x", "not kept", False), ("http://a.test/y", CAPTIONS[0], False)])
    stage = stage_of(empty)
    assert make_plan(empty, stage, 100).rows == len(CAPTIONS)
    assert run_stage(empty, stage, InProcessEngine(), shard_rows=4) == len(CAPTIONS)
    assert set(embedded(empty, stage)) == {text_id(caption) for caption in CAPTIONS}
    for path, (bucket, _) in empty.table(stage.table).files().items():
        ids = empty.table(stage.table).dataset(paths=[path]).to_table(columns=["id"])["id"].to_pylist()
        assert {bucket_of(id, empty.config.buckets) for id in ids} == {bucket}
    judge(empty, [("http://b.test/1", CAPTIONS[2], True), ("http://b.test/2", "a new text", True)])
    plan = make_plan(empty, stage, 100)
    assert [row for shard in plan.shards for row in shard.rows["caption"].to_pylist()] == ["a new text"]
    assert [stage.pending(empty, plan.outputs, bucket).num_rows for bucket in empty.buckets].count(1) == 1


def test_a_stage_that_was_killed_goes_on_and_comes_to_the_same_bits(empty: Lake) -> None:
    judge(empty, [(f"http://a.test/{n}", f"{caption} {n % 3}", True) for n, caption in enumerate(CAPTIONS * 3)])
    stage = stage_of(empty)
    plan = make_plan(empty, stage, 3)
    written = [stage.work(shard) for shard in plan.shards]
    assert plan.commit(written[:2]) == 0, "the rest was written and never committed"
    late = make_plan(empty, stage, 3)
    assert late.rows == plan.rows - sum(result.rows for result in written[:2])
    assert run_stage(empty, stage, InProcessEngine(), shard_rows=5) == late.rows
    assert late.commit([stage.work(late.shards[0])]) == 1, "somebody was faster"
    resumed = embedded(empty, stage)
    empty.table(stage.table).replace([], empty.table(stage.table).files(), {})
    run_stage(empty, stage, InProcessEngine(), shard_rows=1000)
    assert embedded(empty, stage) == resumed


def test_another_encoder_is_another_table_whose_work_is_pending(empty: Lake) -> None:
    judge(empty, [(f"http://a.test/{n}", caption, True) for n, caption in enumerate(CAPTIONS)])
    run_stage(empty, stage_of(empty), InProcessEngine(), shard_rows=100)
    same = T5.model_copy(update={"batch_tokens": 64, "device": "cpu", "publish": False})
    assert make_plan(empty, stage_of(empty, same), 100).rows == 0
    others = [
        T5.model_copy(update=change) for change in ({"dtype": "bfloat16"}, {"max_length": 9}, {"precision": "bf16"})
    ]
    others += [EncoderSettings(encoder="clip", model="built-in", pooled=pooled) for pooled in (False, True)]
    stages = [stage_of(empty, other) for other in others]
    assert len({stage.table for stage in stages} | {stage_of(empty).table}) == 6
    assert {make_plan(empty, stage, 100).rows for stage in stages} == {len(CAPTIONS)}


@pytest.mark.parametrize(("dtype", "precision"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_t5_says_what_transformers_says_of_each_caption_alone(dtype: str, precision: float) -> None:
    rows = rows_of(encoder_of(T5.model_copy(update={"dtype": dtype})).encode(CAPTIONS))
    tokenizer = AutoTokenizer.from_pretrained(BUILT_IN)
    model = T5EncoderModel.from_pretrained(BUILT_IN, dtype=torch.float32).eval()
    for caption, row in zip(CAPTIONS, rows, strict=True):
        with torch.inference_mode():
            alone = model(**tokenizer(caption, return_tensors="pt")).last_hidden_state[0]
        assert (row["truncated"], row["error"]) == (False, None)
        assert len(row["embedding"]) == row["length"] * 128 * 2
        torch.testing.assert_close(vectors(row, dtype), alone, rtol=precision, atol=1e-5)
    assert rows[1]["length"] == 1, "an empty caption is its end token"


def test_a_long_caption_is_cut_and_says_so() -> None:
    long, short = "a red circle and a blue square", "a red circle"
    rows = rows_of(encoder_of(T5.model_copy(update={"max_length": 4})).encode([long, short]))
    assert [(row["length"], row["truncated"]) for row in rows] == [(4, True), (4, False)]
    assert rows[0]["embedding"] == rows[1]["embedding"], "what was read of both is the same"


@pytest.mark.parametrize("chosen", [T5, EncoderSettings(encoder="clip", model="built-in")], ids=["t5", "clip"])
def test_a_text_says_the_same_bits_in_any_company(chosen: EncoderSettings) -> None:
    encoder = encoder_of(chosen.model_copy(update={"batch_tokens": 96}))
    texts = [" ".join(random.Random(n).choices(WORDS, k=1 + n % 19)) for n in range(80)]
    together = encoder.encode(texts)["embedding"]
    assert [encoder.encode([text])["embedding"][0] for text in texts[:20]] == together[:20]
    mixed = random.Random(0).sample(range(80), 37)
    assert encoder.encode([texts[index] for index in mixed])["embedding"] == [together[index] for index in mixed]


@given(lengths=st.lists(st.integers(1, 77), max_size=60), tokens=st.integers(1, 300))
def test_a_batch_has_the_shape_that_its_texts_lengths_say(lengths: list[int], tokens: int) -> None:
    all_indices: list[int] = []
    for rows, width, indices in batches(lengths, tokens, 77):
        assert rows == max(1, tokens // width)
        assert 0 < len(indices) <= rows
        assert {min(77, -(-lengths[index] // 8) * 8) for index in indices} == {width}
        all_indices += indices
    assert sorted(all_indices) == list(range(len(lengths)))


def test_what_the_dtype_cannot_hold_is_an_error_in_its_row(tmp_path: Path) -> None:
    folder = tmp_path / "loud"
    shutil.copytree(BUILT_IN, folder)
    model = T5EncoderModel.from_pretrained(folder, dtype=torch.float32)
    model.encoder.final_layer_norm.weight.data *= 1e6
    model.save_pretrained(folder)
    loud = EncoderSettings(encoder="t5", model=str(folder))
    row = rows_of(encoder_of(loud).encode(["a red circle"]))[0]
    assert row == {"embedding": None, "length": 0, "truncated": False, "error": "values that float16 can't hold"}
    wide = loud.model_copy(update={"dtype": "bfloat16"})
    assert rows_of(encoder_of(wide).encode(["a red circle"]))[0]["length"] == 4


TOWERS: dict[str, dict[str, Any]] = {
    "ours": {"trimmed": True, "text_cfg": {}},
    "custom": {"trimmed": True, "text_cfg": {}, "custom_text": True},
    "siglip": {"trimmed": False, "text_cfg": {"no_causal_mask": True, "pool_type": "last"}, "custom_text": True},
    "coca": {
        "trimmed": True,
        "custom_text": True,
        "text_cfg": {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 24, "vocab_size": 65, "width": 96, "heads": 4, "layers": 1},
    },
}


@pytest.mark.parametrize("kind", TOWERS)
def test_any_open_clip_tower_gives_its_sequence_or_its_pooled_vector(tmp_path: Path, kind: str) -> None:
    folder, tower_config = tmp_path / kind, dict(TOWERS[kind])
    trimmed = tower_config.pop("trimmed")
    model = make_clip(folder, tower_config)
    texts = [*CAPTIONS, "a " * 40]
    with torch.inference_mode():
        ids = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
        pooled = model.encode_text(ids, normalize=False)
        outputs = model.forward_intermediates(text=ids, normalize_intermediates=kind != "coca", text_output_fmt="NLC")
    chosen = EncoderSettings(encoder="clip", model=str(folder))
    sequences = rows_of(encoder_of(chosen).encode(texts))
    for index, row in enumerate(sequences):
        length = int((ids[index] != 0).sum()) if trimmed else ids.shape[1]
        assert (row["length"], row["truncated"]) == (length, index == len(texts) - 1)
        expected = outputs["text_intermediates"][-1][index, :length]
        torch.testing.assert_close(vectors(row), expected, rtol=2**-11, atol=1e-5)
    for index, row in enumerate(rows_of(encoder_of(chosen.model_copy(update={"pooled": True})).encode(texts))):
        torch.testing.assert_close(vectors(row), pooled[index : index + 1], rtol=2**-11, atol=1e-5)
    with torch.inference_mode():
        again = chosen.as_clip.load().model.encode_text(ids[:1])
    assert again.shape == pooled[:1].shape, "a scorer that shares the model finds it as it was"


def test_a_tower_of_transformers_leaves_out_its_padding_and_its_class_token(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=65, pad_token_id=0, **sizes)).save_pretrained(tmp_path / "bert")
    tower = {"hf_model_name": str(tmp_path / "bert"), "hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}
    model = make_clip(tmp_path / "clip", {"text_cfg": tower, "custom_text": True})
    rows = rows_of(encoder_of(EncoderSettings(encoder="clip", model=str(tmp_path / "clip"))).encode(CAPTIONS[2:]))
    tokenizer = AutoTokenizer.from_pretrained(clip.BUILT_IN)
    for caption, row in zip(CAPTIONS[2:], rows, strict=True):
        with torch.inference_mode():
            alone = model.text.transformer(**tokenizer(caption, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(vectors(row), alone[1:], rtol=2**-11, atol=1e-5)


def make_clip(folder: Path, about: dict[str, Any]) -> Any:
    """A small open_clip model with random weights and the built-in tokenizer."""
    config = json.loads((clip.BUILT_IN / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= about.pop("text_cfg")
    config["model_cfg"] |= about
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(clip.BUILT_IN / name, folder)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return model


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": "t5", "model": "not a hub/name/at all"}, "neither a folder here nor the name of a model"),
        ({"encoder": "t5", "model": "built-in", "pooled": True}, "are for encoder: clip"),
        ({"encoder": "clip", "model": "ViT-L-14"}, "`pretrained` must name its weights"),
        ({"encoder": "clip", "model": "built-in", "max_length": 9}, "is for encoder: t5"),
    ],
)
def test_settings_that_do_not_fit_say_so(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderSettings(**values)


def test_a_folder_without_a_complete_model_and_a_hub_out_of_reach_say_what_is_wrong(tmp_path: Path) -> None:
    shutil.copy(BUILT_IN / "config.json", tmp_path)
    with pytest.raises(ModelError, match="is not a complete T5"):
        _ = encoder_of(EncoderSettings(encoder="t5", model=str(tmp_path))).id
    with pytest.raises(ModelError, match="can't be downloaded from the hub"):
        _ = encoder_of(EncoderSettings(encoder="t5", model="nobody/no-such-t5")).id


def test_only_the_files_and_groups_that_hold_a_text_are_read(empty: Lake) -> None:
    table = empty.table_or_make("embeddings/any", EMBEDDINGS)
    captions = pa.chunked_array([[f"caption {n}" for n in range(900)]])
    assert read_embeddings(empty, table.name, captions[:2])["length"].to_pylist() == [None, None], "an empty table"
    rows = sorted((text_id(caption), caption.encode()) for caption in captions.to_pylist())
    for bucket in empty.buckets:
        bucket_rows = [row for row in rows if bucket_of(row[0], empty.config.buckets) == bucket]
        for start in range(0, len(bucket_rows), 50):
            ids, content = zip(*bucket_rows[start : start + 50], strict=True)
            part = {"id": ids, "embedding": content, "length": [1] * len(ids)}
            filled = pa.table(part | {name: [None] * len(ids) for name in ("truncated", "error")}).cast(EMBEDDINGS)
            table.append([write_file(table.url, bucket, filled, row_group=7)])
    wanted = pa.chunked_array([["caption 7", "nowhere", "caption 899", "caption 7"]])
    embeddings = read_embeddings(empty, table.name, wanted)
    assert embeddings["embedding"].to_pylist() == [b"caption 7", None, b"caption 899", b"caption 7"]
    assert read_embeddings(empty, table.name, captions)["embedding"].to_pylist() == [
        c.encode() for c in captions.to_pylist()
    ]
    for path in table.files():
        if b"caption 7" not in table.dataset(paths=[path]).to_table()["embedding"].to_pylist():
            Path(table.url, path).unlink()
    assert read_embeddings(empty, table.name, wanted[:1])["embedding"].to_pylist() == [b"caption 7"]


def pipeline_of(lake: Lake, embed: dict[str, Any]) -> Pipeline:
    return make_pipeline(lake, Recipe.model_validate({"name": "shapes", "sources": [{"path": "here"}], "embed": embed}))


def publish(pipeline: Pipeline, built: BuildResult) -> dict[str, Any]:
    """The version's record."""
    publication = pipeline.plan_publication()
    version = pipeline.commit(publication, list(map(pipeline.publish.work, publication.shards)))
    assert version is not None
    finish_build(pipeline, built, publication, version)
    return pipeline.lake.table("datasets/shapes").last_record()


def rebuild(lake: Lake, embed: dict[str, Any]) -> tuple[BuildResult, dict[str, Any]]:
    """All of a build that comes after its verdicts."""
    pipeline, built = pipeline_of(lake, embed), BuildResult("shapes", 0, 0)
    for stage in pipeline.stages_after_selection:
        built.rows[stage.name] = run_stage(lake, stage, InProcessEngine(), shard_rows=20)
    return built, publish(pipeline, built)


@dataclass(frozen=True)
class Joined:
    """A lake whose dataset was published without embeddings, then with those of one of two encoders."""

    lake: Lake
    plain: BuildResult
    result: BuildResult
    record: dict[str, Any]  # of the second version


EMBED_T5 = {"encoder": "t5", "model": "built-in"}


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Joined:
    """Not to be changed by a test."""
    lake = unprobed_lake(tmp_path_factory.mktemp("joined"), 16)
    judge(lake, [(f"http://a.test/{n}", CAPTIONS[n % len(CAPTIONS)], n % 5 > 0) for n in range(60)])
    plain, _ = rebuild(lake, {})
    embed = {"t5": EMBED_T5, "apart": EMBED_T5 | {"dtype": "bfloat16", "publish": False}}
    return Joined(lake, plain, *rebuild(lake, embed))


def test_embeddings_are_columns_that_change_every_row(joined: Joined) -> None:
    plain, second = joined.plain, joined.result
    assert (plain.kept, plain.added) == (48, 48)
    assert (second.version, second.kept, second.added) == (plain.version + 2, 48, 0), "columns, then rows"
    assert second.rows == {"embed-t5": len(CAPTIONS), "embed-apart": len(CAPTIONS)}
    assert joined.record["changed"] == 48


def test_a_version_records_the_table_of_embeddings_that_it_was_published_from(joined: Joined) -> None:
    source = stage_of(joined.lake).table
    assert joined.record["embeddings"] == {"t5": source}
    assert joined.record["inputs"][source] == joined.lake.table(source).version


def test_every_published_row_has_the_embedding_of_its_caption(joined: Joined) -> None:
    texts = embedded(joined.lake, stage_of(joined.lake))
    table = joined.lake.table("datasets/shapes").dataset()
    for sample in table.to_table(columns=["caption", "t5_embedding", "t5_length"]).to_pylist():
        text = texts[text_id(sample["caption"])]
        assert (sample["t5_embedding"], sample["t5_length"]) == (text["embedding"], text["length"])


def test_datasets_loads_published_embeddings_and_none_that_are_kept_apart(joined: Joined, tmp_path: Path) -> None:
    table = joined.lake.table("datasets/shapes")
    files = [f"{table.url}/{path}" for path in table.files()]
    notes = json.loads(pq.read_schema(files[0]).metadata[b"imagen"])
    assert notes == {"embeddings": {"t5": {"dtype": "float16", "dim": 128}}}
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert "apart_embedding" not in loaded.column_names
    assert loaded[0]["image"].size == (64, 48)
    assert np.frombuffer(loaded[0]["t5_embedding"], np.float16).reshape(loaded[0]["t5_length"], 128).std() > 0


def test_the_same_encoder_again_publishes_nothing(joined: Joined, tmp_path: Path) -> None:
    idle, _ = rebuild(copy_of(joined.lake, tmp_path / "lake"), {"t5": EMBED_T5})
    assert (idle.version, idle.rows["embed-t5"], idle.added, idle.removed) == (joined.result.version, 0, 0, 0)


def test_another_encoder_changes_the_columns_of_every_row(joined: Joined, tmp_path: Path) -> None:
    lake = copy_of(joined.lake, tmp_path / "lake")
    other, record = rebuild(lake, {"t5": EMBED_T5 | {"dtype": "bfloat16"}})
    assert (other.version, other.rows["embed-t5"]) == (joined.result.version + 1, 0), "encoded before, to be read apart"
    assert record["changed"] == 48, "the lengths are the same, the vectors are not"


def test_a_pair_that_was_kept_while_others_were_encoded_is_published_again_with_its_vectors(empty: Lake) -> None:
    t5 = {"t5": EMBED_T5}
    judge(empty, [("http://a.test/1", "a red circle", True)])
    rebuild(empty, t5)
    judge(empty, [("http://a.test/2", "a blue circle", True)])
    publish(pipeline_of(empty, t5), BuildResult("shapes", 0, 0))
    lengths = empty.table("datasets/shapes").dataset().to_table(columns=["caption", "t5_length"])
    assert sorted(lengths.to_pylist(), key=str) == [
        {"caption": "a blue circle", "t5_length": None},
        {"caption": "a red circle", "t5_length": 4},
    ]
    built, record = rebuild(empty, t5)
    assert (built.rows, record["changed"]) == ({"embed-t5": 1}, 1)
    assert empty.table("datasets/shapes").dataset().to_table()["t5_length"].to_pylist() == [4, 4]
