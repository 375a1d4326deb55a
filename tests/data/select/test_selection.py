"""Criteria against an independent statement of each on random facts, boundaries included; published rules likewise."""

import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.build.recipe import Recipe, load_recipe, parse_recipe, shipped_recipes
from data.lake.lake import Lake
from data.lake.schemas import FETCHES, IMAGES, PAIRS, bucket_of, pair_id
from data.lake.shard_file import write_file
from data.scorers.phash import PerceptualHash
from data.scorers.scorer import Scorer
from data.select.judgement import Judgement, select
from data.select.selection import Cuts, Selection
from data.world.draw import draw
from data.world.scene import random_scene

BUCKETS = range(4)
START = datetime(2026, 1, 1, tzinfo=UTC)
SOURCES = "sources: [{path: pairs.parquet}]\n"
Row = dict[str, Any]


class Rows:
    """Facts of random pairs, as tables of a lake would hold them."""

    def __init__(self, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        self.rows = pa.Table.from_pylist(rows, schema)
        self.of = np.array([bucket_of(row["id"], len(BUCKETS)) for row in rows])

    def dataset(self, bucket: int | None = None) -> pa.Table:
        return self.rows if bucket is None else self.rows.filter(pa.array(self.of == bucket))


class TableScorer(Scorer):
    """In place of a scorer whose model can't be loaded; its table is given."""

    @property
    def id(self) -> str:
        return "told"


def selection_of(recipe: Recipe) -> tuple[Selection, dict[str, Scorer]]:
    scorers: dict[str, Scorer] = {}
    for name, scorer in recipe.selection_scorers.items():
        scorers[name] = type("Of" + name.title(), (TableScorer,), {"columns": scorer.columns})()
    return Selection(recipe.name, recipe.criteria, scorers), scorers


def judged(recipe: Recipe, rows: list[Row], pinned: Cuts | None = None) -> tuple[dict[str, list[str]], Cuts]:
    """The reasons of each pair, and the cuts that were made."""
    selection, scorers = selection_of(recipe)
    schema = {name: pa.schema([("id", pa.string()), *scorer.columns]) for name, scorer in scorers.items()}
    inputs: dict[str, Any] = {
        "pairs": Rows([{**row, "url": row["id"]} for row in rows], PAIRS),
        "images": Rows([row for row in rows if row["sha256"]], IMAGES),
        "fetches": Rows([{**row, "attempt": 1, "status": "ok" if row["sha256"] else "gone"} for row in rows], FETCHES),
    }
    for name, scorer in scorers.items():
        scores = [{"id": row["id"], **{c: row.get(f"{name}_{c}") for c in scorer.columns.names}} for row in rows]
        inputs[name] = Rows(scores, schema[name])
    with Judgement(BUCKETS, selection, inputs, pinned or {}) as judgement:
        verdicts = [row for bucket in BUCKETS for row in judgement.verdicts(bucket).to_pylist()]
    assert all(row["kept"] == (not row["reasons"]) for row in verdicts)
    assert len(verdicts) == len(rows)
    return {row["id"]: row["reasons"] for row in verdicts}, judgement.cuts


def kept_ids(recipe: Recipe, rows: list[Row]) -> set[str]:
    return {id for id, reasons in judged(recipe, rows)[0].items() if not reasons}


def web_rows(count: int, seed: int) -> list[Row]:
    """Pairs whose facts are often exactly the published bounds."""
    rng = np.random.default_rng(seed)

    def near(*bounds: float) -> float:
        return float(np.float32(rng.choice([*bounds, rng.uniform(0, 2 * max(bounds))])))

    captions = [" ".join(["word"] * int(rng.choice([1, 2, 3, 4, 256, 257]))) + f" {n}" for n in range(count)]
    captions += ["seen often enough"] * (count // 3)
    captions += ["ab cd", "ab cde", "a b c", "x" * 1000, "one two " + "y" * 992, "one two " + "y" * 993]
    rows = []
    for number in range(count):
        caption = str(rng.choice(captions))
        side, aspect = near(199, 200, 201, 511, 512, 600, 800), rng.choice([1.0, 2.9, 3.0, 3.01])
        width, height = int(side), round(int(side) * aspect)
        rows.append(
            {
                "id": pair_id(str(number), caption),
                "caption": caption,
                "source": str(rng.choice(["a", "b"])),
                "first_seen": START + timedelta(days=int(rng.integers(3))),
                "sha256": None if rng.random() < 0.05 else f"{int(rng.integers(count)):064x}",
                "original_width": width if number % 2 else height,
                "original_height": height if number % 2 else width,
                "original_bytes": int(near(4999, 5000, 5001)),
                "caption_language": rng.choice(["en", "de", None]),
                "caption_english": near(0.49, 0.5, 0.9, 1),
                "phash_hash": f"{int(rng.integers(count // 2)) << 40:016x}",
                "phash_thumbnail": bytes(rng.integers(0, 256, 192, dtype=np.uint8)),
                "clip_score": near(0.28, 0.26) if rng.random() < 0.95 else None,
                "safety_probability": near(0.1, 0.2, 0.5),
                "watermark_probability": near(0.1, 0.2, 0.8),
                "aesthetic_score": near(4.5, 6),
            }
        )
    return rows


def words(row: Row) -> int:
    return len(row["caption"].split())


def best(rows: list[Row], share: float) -> list[Row]:
    ranked = sorted((r for r in rows if r["clip_score"] is not None), key=lambda r: (-r["clip_score"], r["id"]))
    return ranked[: math.ceil(round(share * len(ranked), 9))]


def first_of_each(rows: list[Row], key: Callable[[Row], Any]) -> list[Row]:
    firsts: dict[Any, Row] = {}
    for row in sorted(rows, key=lambda r: (r["first_seen"], r["id"])):
        firsts.setdefault(key(row), row)
    return list(firsts.values())


def laion2b(rows: list[Row]) -> list[Row]:
    return [
        r
        for r in rows
        if r["caption_language"] == "en" and r["clip_score"] is not None and r["clip_score"] >= np.float32(0.28)
    ]


def datacomp_basic(rows: list[Row]) -> list[Row]:
    return [
        r
        for r in rows
        if r["caption_language"] == "en"
        and words(r) > 2
        and len(r["caption"]) > 5
        and min(r["original_width"], r["original_height"]) >= 200
        and max(r["original_width"], r["original_height"]) <= 3 * min(r["original_width"], r["original_height"])
    ]


def coyo(rows: list[Row], all_rows: list[Row]) -> list[Row]:
    caption_counts = Counter(row["caption"] for row in all_rows)
    eligible = [
        r
        for r in rows
        if r["original_bytes"] >= 5000
        and min(r["original_width"], r["original_height"]) >= 200
        and max(r["original_width"], r["original_height"]) / min(r["original_width"], r["original_height"]) <= 3
        and r["safety_probability"] <= 0.5
        and 3 <= words(r) <= 256
        and len(r["caption"]) <= 1000
        and caption_counts[r["caption"]] <= 10
    ]
    return first_of_each(eligible, lambda r: (r["phash_hash"], r["caption"]))


def text_to_image(rows: list[Row], all_rows: list[Row]) -> list[Row]:
    caption_counts = Counter(row["caption"] for row in all_rows)
    eligible = [
        r
        for r in rows
        if r["original_bytes"] >= 5000
        and min(r["original_width"], r["original_height"]) >= 512
        and max(r["original_width"], r["original_height"]) / min(r["original_width"], r["original_height"]) <= 3
        and r["caption_english"] >= 0.5
        and words(r) > 2
        and caption_counts[r["caption"]] <= 10
    ]
    eligible = first_of_each(eligible, lambda r: r["sha256"])  # no two random thumbnails are alike
    eligible = [
        r
        for r in eligible
        if r["safety_probability"] < 0.5
        and r["watermark_probability"] < np.float32(0.8)
        and r["aesthetic_score"] >= 4.5
    ]
    return best(eligible, 0.3)


@pytest.mark.parametrize("seed", range(3))
def test_the_published_rules_keep_what_an_independent_statement_of_them_keeps(seed: int) -> None:
    rows = web_rows(600, seed)
    with_picture = [row for row in rows if row["sha256"]]
    rules: dict[str, Callable[[], list[Row]]] = {
        "laion2b": lambda: laion2b(with_picture),
        "datacomp-basic": lambda: datacomp_basic(with_picture),
        "clip-l14-top30": lambda: best(with_picture, 0.3),
        "coyo": lambda: coyo(with_picture, rows),
        "text-to-image": lambda: text_to_image(with_picture, rows),
    }
    assert {*rules, "shapes"} == set(shipped_recipes())
    for name, rule in rules.items():
        wanted = {row["id"] for row in rule()}
        assert wanted, name
        assert kept_ids(load_recipe(name), rows) == wanted, name


facts = st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.floats(-2, 2, width=32))
bounds = st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 0.5, 1.0]))


@settings(max_examples=40, deadline=None)
@given(values=st.lists(facts, min_size=1, max_size=12), low=bounds, high=bounds, strict=st.booleans())
def test_bounds_keep_what_is_between_them_and_never_a_missing_fact(
    values: list[float | None], low: float | None, high: float | None, strict: bool
) -> None:
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        return
    names = ("above", "below") if strict else ("min", "max")
    bound_settings = {name: bound for name, bound in zip(names, (low, high), strict=True) if bound is not None}
    recipe = recipe_of(f"  - picture_blur: {bound_settings}\n".replace("'", ""), "picture:")
    rows = [pair(n, picture_blur=value) for n, value in enumerate(values)] + [pair(99, sha256=None)]
    reasons_by_id, _ = judged(recipe, rows)
    for row, value in zip(rows, values, strict=False):
        out_low = low is not None and value is not None and (value <= low if strict else value < low)
        out_high = high is not None and value is not None and (value >= high if strict else value > high)
        reasons = reasons_by_id[row["id"]]
        assert bool(reasons) == (value is None or out_low or out_high)
        assert reasons in ([], ["picture_blur unknown"]) or str(f"{low if out_low else high:g}") in reasons[0]
    assert reasons_by_id[rows[-1]["id"]] == ["not fetched: gone"], "a pair without a picture falls for that alone"


def test_a_bound_by_language_is_the_language_s_own() -> None:
    recipe = recipe_of(
        "  - clip_score: {by: caption_language, min: {en: 0.28, other: 0.26}}\n", "caption:", "clip: {model: built-in}"
    )
    rows = [
        pair(n, caption_language=language, clip_score=score)
        for n, (language, score) in enumerate([("en", 0.28), ("en", 0.27), ("de", 0.27), ("de", 0.25), (None, 0.27)])
    ]
    assert [not judged(recipe, rows)[0][row["id"]] for row in rows] == [True, False, True, False, True]


def test_what_a_source_carried_can_be_selected_on() -> None:
    odd = """it's "here" """.strip()
    recipe = recipe_of(f"  - extra.punsafe: {{below: 0.5}}\n  - extra.{odd}: {{none_of: [NC]}}\n")
    carried = [{"punsafe": 0.1, odd: "CC0"}, {"punsafe": "0.7"}, {"punsafe": "x"}, {"punsafe": 0.2, odd: "NC"}]
    rows = [pair(n, extra=json.dumps(extra)) for n, extra in enumerate(carried)] + [pair(9)]
    reasons_by_id, _ = judged(recipe, rows)
    no_odd, no_number = f"extra.{odd} unknown", "extra.punsafe unknown"
    wanted = [[], ["extra.punsafe >= 0.5", no_odd], [no_number, no_odd], [f"extra.{odd} is NC"], [no_number, no_odd]]
    assert [reasons_by_id[row["id"]] for row in rows] == wanted


def test_any_of_keeps_a_pair_for_one_reason_of_several() -> None:
    recipe = recipe_of("  - any_of: [{side: {min: 9}, aspect: {max: 2}}, {words: {min: 5}}]\n")
    sizes = [(9, 9, "a"), (9, 30, "a"), (3, 3, "a b c d e"), (3, 3, "a")]
    rows = [pair(n, caption=text, original_width=w, original_height=h) for n, (w, h, text) in enumerate(sizes)]
    reasons_by_id, _ = judged(recipe, rows)
    assert [reasons_by_id[row["id"]] for row in rows] == [
        [],
        ["any_of not met: side and aspect or words"],
        [],
        reasons_by_id[rows[1]["id"]],
    ]


@settings(max_examples=30, deadline=None)
@given(
    scores=st.lists(st.tuples(facts, st.sampled_from("ab"), st.booleans()), min_size=1, max_size=15),
    share=st.sampled_from([0.1, 0.3, 0.5, 1.0]),
    per=st.booleans(),
)
def test_the_best_are_those_of_what_is_left_and_ties_go_by_id(
    scores: list[tuple[float | None, str, bool]], share: float, per: bool
) -> None:
    per_text = ", per: source" if per else ""
    recipe = recipe_of(f"  - side: {{min: 5}}\n  - picture_blur: {{top: {share}{per_text}}}\n", "picture:")
    rows = [
        pair(n, picture_blur=score, source=source, original_width=9 if large else 3)
        for n, (score, source, large) in enumerate(scores)
    ]
    eligible = [row for row in rows if row["original_width"] == 9 and row["picture_blur"] is not None]
    wanted = set()
    for part in ("a", "b") if per else ("ab",):
        ranked = sorted((r for r in eligible if r["source"] in part), key=lambda r: (-r["picture_blur"], r["id"]))
        wanted |= {r["id"] for r in ranked[: math.ceil(round(share * len(ranked), 9))]}
    assert kept_ids(recipe, rows) == wanted


def test_a_cut_stays_where_it_was_until_repin() -> None:
    recipe = recipe_of("  - picture_blur: {top: 0.5}\n", "picture:")
    old = [pair(n, picture_blur=float(n)) for n in range(10)]
    reasons_by_id, cuts = judged(recipe, old)
    assert [not reasons_by_id[row["id"]] for row in old] == [False] * 5 + [True] * 5
    rows = old + [pair(n, picture_blur=float(n)) for n in range(10, 30)]
    again, same = judged(recipe, rows, cuts)
    assert same == cuts
    assert {id: again[id] for id in reasons_by_id} == reasons_by_id, "nobody who was in falls out because others came"
    assert len([1 for reasons in again.values() if not reasons]) == 25
    assert len(kept_ids(recipe, rows)) == 15, "a new cut"
    strict = recipe_of("  - side: {min: 1}\n  - picture_blur: {top: 0.5}\n", "picture:")
    assert judged(strict, rows, cuts)[1].keys().isdisjoint(cuts), "another opinion before it is another cut"


def test_of_duplicates_the_first_seen_stays_and_then_the_first_id() -> None:
    recipe = recipe_of("  - side: {min: 5}\n  - unique: {by: content}\n")
    small, late, first, tie = (pair(n, sha256="f" * 64) for n in range(4))
    small |= {"original_width": 3, "first_seen": START - timedelta(days=9)}
    late |= {"first_seen": START + timedelta(days=1)}
    reasons_by_id, _ = judged(recipe, [small, late, first, tie])
    stays, goes = sorted((first["id"], tie["id"]))
    assert reasons_by_id[stays] == []
    assert reasons_by_id[goes] == reasons_by_id[late["id"]] == [f"unique content: same as {stays}"]
    assert reasons_by_id[small["id"]] == ["side < 5"], "one that is out for another reason stands in nobody's way"


def test_a_sample_draws_each_source_at_its_weight_and_always_the_same() -> None:
    recipe = recipe_of("  - sample: {weights: {a: 0.25, b: 1.0}, seed: 3}\n")
    rows = [pair(n, source="ab"[n % 2]) for n in range(2000)]
    stays = kept_ids(recipe, rows)
    counts = Counter(row["source"] for row in rows if row["id"] in stays)
    assert counts["b"] == 1000
    assert 200 <= counts["a"] <= 300
    assert kept_ids(recipe, rows[:500]) == stays & {row["id"] for row in rows[:500]}


def test_balancing_draws_frequent_concepts_down_and_keeps_rare_ones(tmp_path: Path) -> None:
    (tmp_path / "concepts.txt").write_text("red circle\nstar\n")
    recipe = recipe_of("  - concepts_matched: {most: 100}\n", f"concepts: {{file: {tmp_path}/concepts.txt}}")
    concepts = {0: ["red circle"], 1: ["red circle", "star"], 2: []}
    rows = [pair(n, concepts_matched=concepts[0 if n < 1000 else 1 if n < 1050 else 2]) for n in range(1060)]
    stays = kept_ids(recipe, rows)
    counts = Counter(tuple(row["concepts_matched"]) for row in rows if row["id"] in stays)
    assert 70 <= counts["red circle",] <= 125
    assert counts["red circle", "star"] == 50, "drawn for its rare concept"
    assert not counts[()], "what names no concept is none of the balanced"


def test_pictures_and_captions_of_an_evaluation_set_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    images = [Image.fromarray(draw(random_scene(rng, 300, 200), rng)) for _ in range(4)]
    (tmp_path / "set").mkdir()
    images[0].save(tmp_path / "set" / "one.png")
    buffer = BytesIO()
    images[1].save(buffer, "JPEG", quality=80)
    published = pa.array([{"bytes": buffer.getvalue(), "path": None}])
    pq.write_table(
        pa.table({"image": published, "caption": ["A red circle, alone."]}), tmp_path / "set" / "two.parquet"
    )
    recipe = recipe_of(f"  - holdout: {{sets: ['{tmp_path}/set']}}\n", "phash:")
    look = PerceptualHash().look
    near = images[1].resize((200, 133))
    facts = {"phash_" + name: value for name, value in look(near).items()}
    rows = [
        pair(0, **{"phash_" + name: value for name, value in look(images[0]).items()}),
        pair(1, **facts),
        pair(2, **{"phash_" + name: value for name, value in look(images[2]).items()}),
        pair(3, caption="a RED circle alone", **{"phash_" + name: value for name, value in look(images[3]).items()}),
    ]
    reasons_by_id, _ = judged(recipe, rows)
    wanted = [["held out: its picture"], ["held out: its picture"], [], ["held out: its caption"]]
    assert [reasons_by_id[row["id"]] for row in rows] == wanted
    before = Selection("shapes", recipe.criteria, {}).fingerprint
    (tmp_path / "set" / "three.txt").write_text("another caption\n")
    assert Selection("shapes", recipe.criteria, {}).fingerprint != before, "a set that changed is another judgement"


def test_selecting_again_changes_nothing_and_writes_nothing(tmp_path: Path) -> None:
    lake = Lake.make(str(tmp_path / "lake"))
    recipe = recipe_of("  - side: {min: 5}\n  - side: {top: 0.5}\n")
    rows = [pair(n, original_width=n, original_height=n) for n in range(40)]
    for name, schema in (("pairs", PAIRS), ("images", IMAGES)):
        table = lake.table_or_make(name, schema)
        files = []
        for bucket in lake.buckets:
            part = [row for row in rows if bucket_of(row["id"], len(lake.buckets)) == bucket]
            files.append(write_file(table.url, bucket, pa.Table.from_pylist(part, schema)))
        table.append(files)
    selection = Selection("shapes", recipe.criteria, recipe.selection_scorers)
    assert select(lake, selection)
    version = lake.table(selection.table).version
    assert not select(lake, selection)
    assert lake.table(selection.table).version == version
    assert select(lake, selection, repin=True)
    assert lake.table(selection.table).last_record()["cuts"]


def recipe_of(select: str, *scores: str) -> Recipe:
    lines = "".join(f"  {score}\n" for score in scores)
    return parse_recipe(
        f"name: shapes\n{SOURCES}{f'scores:{chr(10)}{lines}' if scores else ''}select:\n{select}", "r.yaml"
    )


def pair(number: int, **facts: Any) -> Row:
    row = {"caption": "a caption", "source": "a", "first_seen": START, "sha256": f"{number:064x}"}
    row |= {"original_width": 9, "original_height": 9, "original_bytes": 9}
    return {"id": pair_id(str(number), ""), **row, **facts}
