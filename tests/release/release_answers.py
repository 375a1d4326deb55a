"""What the code of the release 0.1.0 answers about what `make_release.py` made; its imports are of that time, too."""

import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fingerprints import arithmetic, digest, digests, without
from pydantic import BaseModel
from safetensors.torch import save_file
from typer.testing import CliRunner

from data.build import build
from data.encoder import encoder_of
from data.lake import Lake
from data.reader import Reader
from data.recipe import Recipe, load_recipe, shipped
from data.settings import name_of, read_settings
from data.sources import Columns, File, Source
from data.world.draw import draw
from data.world.grammar import caption_of
from data.world.scene import random_scene
from flows import events
from flows.approve import approve_model
from flows.backfill import backfill
from flows.command import app
from flows.evaluate import evaluate
from flows.forget import forget as forget_flow
from flows.metrics import LakeMetrics
from flows.promote import promote as promote_flow
from flows.rebuild import rebuild
from flows.reconcile import reconcile
from flows.retrain import retrain
from flows.train import train as train_flow
from flows.verify import verify
from imagen.config import TrainConfig, load_config
from imagen.evaluate.settings import load_settings
from imagen.evaluate.suites import load_suite
from imagen.measures import newest_measure
from imagen.model import Imagen
from imagen.models import models
from imagen.presets import PRESETS
from imagen.promote import candidate, promote
from imagen.retrain import RetrainPolicy, decided_for
from imagen.retrain import decide as decide_training
from imagen.train import Watch, train
from imagen.training import planned

COMMIT = "f9b0e77"
PROMPT = "a large red circle above a small blue square"
RECIPES = ("shapes.yaml", "every-field.yaml")
CONFIGS = ("cascade.yaml", "unfinished.yaml", "every-training-field.yaml", "preset.yaml")
ENVIRONMENT = {"lake": "s3://b/l", "engine": "ray", "workers": "3", "shard_minutes": "5", "worker_cpus": "2"}
ENVIRONMENT |= {"worker_gpus": "0.5"}


class Here:
    """An engine that runs shards in this process."""

    workers = 1

    def map(self, work: Any, items: Any) -> Any:
        return map(work, items)

    def close(self) -> None:
        """There is nothing to end."""

    kill = close


def recipe(**changes: Any) -> Recipe:
    """With relative paths, so that the lineage of a version holds wherever the archive is opened."""
    values = yaml.safe_load(Path("shapes.yaml").read_text())
    values["download"] |= changes.pop("download", {})
    return Recipe.model_validate(values | changes)


def answer(folder: str) -> dict[str, Any]:
    """What the release says of all that; the lake is not changed before everything was read."""
    lake = Lake.open("lake")
    answers: dict[str, Any] = {"commit": COMMIT, "arithmetic": arithmetic()}
    answers["yaml"] = {name: load_recipe(name).model_dump(mode="json") for name in RECIPES}
    answers["yaml"] |= {name: load_config(name).model_dump(mode="json") for name in CONFIGS}
    answers["yaml"]["evaluation.yaml"] = load_settings("evaluation.yaml", {}).model_dump(mode="json")
    check_every_field()
    os.environ |= {name_of(name): value for name, value in ENVIRONMENT.items()}
    answers["environment"] = {name_of(name): value for name, value in ENVIRONMENT.items()}
    answers["settings"] = read_settings().model_dump(mode="json")
    for name in answers["environment"]:
        del os.environ[name]
    answers["hashes"] = {name: load_config(name).hash for name in CONFIGS} | {"shapes.yaml": recipe().hash}
    loaded = load_recipe("shapes.yaml")
    answers["shipped"] = {name: load_recipe(name).model_dump(mode="json") for name in shipped()}
    answers["planned"] = {name: plan_of(load_config(name)) for name in (*CONFIGS, *PRESETS)}
    answers["tables"] = {name: scorer.table for name, scorer in loaded.judged.items()}
    answers["tables"] |= {name: one.table for name, one in loaded.describers.items()}
    answers["tables"] |= {f"embed {name}": encoder_of(one).id for name, one in loaded.embed.items()}
    answers["criteria"] = [[type(one).__name__, one.label] for one in load_recipe("every-field.yaml").criteria]
    answers["files"] = file_ids()
    answers["measures"] = newest_measure(f"lake/training/cascade-{models(lake)[-1].id[:12]}/stage-2/measures")
    answers["world"] = drawn_world()
    answers["suite"] = load_suite("shapes").id
    answers["platform"] = platform(lake)
    answers["versions"] = {name: lake.table(name).version for name in lake.tables()}
    answers["commands"] = [command(argv) for argv in commands(lake)]
    answers["reader"] = read(lake)
    answers["picture"] = paint()
    answers["exported"] = {path.name: digest(path.read_bytes()) for path in sorted(Path("exported").glob("*.tar"))}
    answers["retrains"] = decided_trainings(lake)
    answers["promoted"] = promoted(lake)
    answers["resumed"] = resume(lake)
    answers["increment"] = increment(lake)
    return without(answers, folder)


def check_every_field() -> None:
    """Raise if a model of a user's YAML has a field that no file spells out."""
    spelled: dict[type, set[str]] = {}
    evaluation = load_settings("evaluation.yaml", {})
    walk([*map(load_recipe, RECIPES), *map(load_config, CONFIGS), evaluation, read_settings()], spelled)
    missing = {
        kind.__name__: sorted(left)
        for kind, fields in spelled.items()
        if (left := {*kind.model_fields} - fields - {"scorer", "fact"}) and kind.__name__ != "Settings"
    }
    sys.stdout.write(f"models: {', '.join(sorted(kind.__name__ for kind in spelled))}\n")
    assert not missing, missing


def walk(value: Any, spelled: dict[type, set[str]]) -> None:
    if isinstance(value, BaseModel):
        spelled.setdefault(type(value), set()).update(value.model_fields_set)
        walk([getattr(value, name) for name in type(value).model_fields], spelled)
    elif isinstance(value, dict):
        walk([*value.values()], spelled)
    elif isinstance(value, list | tuple):
        for part in value:
            walk(part, spelled)


def plan_of(config: TrainConfig) -> dict[str, Any]:
    """What follows from a configuration: cascade, and how each stage is trained and sampled."""
    stages = range(len(config.model.stages))
    return {
        "model": config.model.model_dump(mode="json"),
        "training": [config.training(stage).model_dump(mode="json") for stage in stages],
        "sampling": [one.model_dump(mode="json") for one in config.sampling],
    }


def drawn_world() -> list[list[str]]:
    """Captions and pictures of some scenes: a world is known by its seed alone."""
    drawn = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scene = random_scene(rng, 96, 64)
        caption = caption_of(scene, rng)
        drawn.append([caption, digest(draw(scene, rng).tobytes())])
    return drawn


def platform(lake: Lake) -> dict[str, Any]:
    """The names by which automations, schedules and dashboards know us."""
    flows = (
        rebuild,
        backfill,
        train_flow,
        evaluate,
        promote_flow,
        approve_model,
        retrain,
        reconcile,
        verify,
        forget_flow,
    )
    found = LakeMetrics(lake, [load_recipe("shapes.yaml")], 0.0).collect()
    samples = [[one.name, one.labels, one.value] for family in found for one in family.samples]
    return {
        "events": [events.PUBLISHED, events.TRAINED, events.EVALUATED, events.JUDGED],
        "flows": {one.name: one.parameters.model_dump(mode="json")["properties"] for one in flows},
        "metrics": [one for one in samples if not one[0].startswith(("imagen_training", "imagen_metrics"))],
    }


def decided_trainings(lake: Lake) -> dict[str, Any]:
    rows = [*decided_for(lake, "cascade", "shapes", 5), *decided_for(lake, "others", "shapes", 2)]
    now, policy = datetime(2030, 1, 1, tzinfo=UTC), RetrainPolicy(grown=0.05, drift=0.2, days=1, hours=0.5)
    decided = [asdict(decide_training(lake, name, "shapes", None, policy, now)) for name in ("cascade", "others")]
    return {"rows": rows, "decided": decided}


def file_ids() -> list[dict[str, Any]]:
    """By what the lake knows the files that it has read."""
    presets = ("laion2b", "coyo-700m", "cc3m", "cc12m", "datacomp", None)
    sources = [Source(path="p", preset=preset) for preset in presets]
    sources.append(Source(path="p", names=("a", "b"), columns=Columns(url="a", caption="b", sha256="c", image="d")))
    at = "s3://bucket/part.parquet", "123-abc"
    return [
        {"source": one.model_dump(mode="json", exclude_unset=True), "at": at, "id": File(*at, one.layout).id}
        for one in sources
    ]


def commands(lake: Lake) -> list[list[str]]:
    rows = lake.table("verdicts/shapes").dataset().to_table().sort_by("id").to_pylist()
    asked = {" ".join([*row["reasons"], "kept"]).split(" ")[0]: row["id"] for row in rows}  # one of each kind
    newest = lake.table("datasets/shapes").version
    lines = [["versions", "shapes"], ["models"], ["models", "cascade"], ["leaderboard"]]
    lines += [["leaderboard", "--metric", "kid_clip"]]
    lines += [["verify", f"shapes@{number}"] for number in (1, 2, newest)]
    lines += [["diff", f"shapes@{number}", f"shapes@{number + 1}"] for number in (1, 2, newest - 1)]
    lines += [["plan", "shapes.yaml"], ["plan", "shapes.yaml", "--set", "select.square_ratio.min=0.7"]]
    lines += [["why", id] for id in asked.values()]
    lines += [["why", "http://carried.test/1"]]
    lines += [["vacuum", "--dry-run"], ["export", "shapes", "exported", "--format", "webdataset"]]
    return [[*line, "--lake", "lake", "--json"] for line in lines]


def command(argv: list[str]) -> dict[str, Any]:
    result = CliRunner().invoke(app, argv)
    assert result.exit_code < 2, (argv, result.output, result.exception)
    return {"argv": argv, "exit": result.exit_code, "out": json.loads(result.stdout)}


def read(lake: Lake) -> dict[str, Any]:
    """All samples of an epoch, and those that are left of it after some."""
    names = ["id", "caption", "image", "image_16", "clip_score", "square_ratio", "t5", "clip_text"]
    reader, samples = Reader(lake, "shapes", columns=names, seed=3, rank=0, world=1), []
    reader.set_epoch(1)
    for at, sample in enumerate(reader):
        samples.append(digests(sample))
        if at == 4:
            state = reader.state_dict()
    return {"columns": names, "samples": samples, "state": state, "given": 5}


def paint() -> dict[str, Any]:
    argv = ["generate", PROMPT, "--model", "cascade/champion", "--seed", "4", "--out", "picture.png"]
    made = command([*argv, "--lake", "lake", "--json"])
    inspected = command(["inspect", "picture.png", "--json"])
    return {"prompt": PROMPT, "seed": 4, "made": made, "inspected": inspected}


def promoted(lake: Lake) -> dict[str, Any]:
    """A decision of the gate about what was evaluated and approved before."""
    promote(candidate(lake, "cascade/2"), Here(), who="ann")
    judged = promote(candidate(lake, "cascade/3"), Here(), who="ann")
    said = {name: value for name, value in asdict(judged.decision).items() if name not in ("at", "code")}
    return {**said, "answer": judged.verdict.answer}


def resume(lake: Lake) -> dict[str, Any]:
    """How the training ends that was stopped."""
    losses: list[list[float]] = []
    watch = Watch(on_step=lambda stage, told, done: losses.append([told.step, told.loss]))
    ended = train(planned(lake, load_config("unfinished.yaml"), "shapes"), watch=watch, cpu=True)
    model = Imagen.from_pretrained(ended.trained.reference, "lake")
    save_file({name: value.contiguous() for name, value in model.unet.state_dict().items()}, "resumed.safetensors")
    same = ("id", "name", "number", "dataset", "version", "config", "config_hash", "text", "digest", "folder")
    return {"losses": losses, "model": {name: getattr(ended.trained, name) for name in same}}


def increment(lake: Lake) -> dict[str, Any]:
    """The next build, for which more pairs came: what it publishes and selects."""
    shutil.copy("later/two.parquet", "came")
    built = build(lake, recipe(), Here())
    rows = lake.table("datasets/shapes").dataset().to_table().sort_by("id").to_pylist()
    verdicts = lake.table("verdicts/shapes").dataset().to_table().sort_by("id").to_pylist()
    kept = [{name: brief(value) for name, value in row.items() if name not in ("image", "image_16")} for row in rows]
    said = replace(built, report="", warning=None)
    rejects = lake.table("rejects").dataset().to_table(columns=["row", "reason", "content"]).to_pylist()
    return {"rejects": rejects, "built": {**vars(said), "warning": built.warning}, "rows": kept, "verdicts": verdicts}


def brief(value: Any) -> Any:
    return digest(value) if isinstance(value, bytes) else value
