"""What a user of the release 0.1.0 has on disk opens unchanged, and gives the same answers.

`release-0.1.0.tar.xz` holds it, with what the code of that release answered; `make_release.py` made it. Where a
processor or library computes other bits than the archive's, what is computed anew need only be near.
"""

import json
import math
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diffusers.utils.dynamic_modules_utils
import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from data.build.build import build
from data.build.recipe import Recipe, load_recipe, shipped_recipes
from data.encoders.encoder import encoder_of
from data.environment import read_settings
from data.lake.lake import Lake
from data.reader.reader import Reader
from data.scorers.registry import scorer_class
from data.sources.sources import Source, SourceFile
from data.world.draw import draw
from data.world.grammar import caption_of
from data.world.scene import random_scene
from flows.command import app
from flows.platform.metrics import LakeMetrics
from flows.runs.approve import approve_model
from flows.runs.backfill import backfill
from flows.runs.evaluate import evaluate
from flows.runs.forget import forget
from flows.runs.promote import promote as promote_flow
from flows.runs.rebuild import rebuild
from flows.runs.reconcile import reconcile
from flows.runs.retrain import retrain
from flows.runs.train import train as train_flow
from flows.runs.verify import verify
from flows.server import events
from imagen.champion.promote import plan_candidate, promote
from imagen.champion.retrain import RetrainPolicy, decide, decisions_on_version
from imagen.config.evaluation import load_settings
from imagen.config.training import load_config
from imagen.metrics.suites import load_suite
from imagen.models.model import Imagen
from imagen.models.table import find_model
from imagen.train.measures import newest_measure
from imagen.train.setup import plan_training
from imagen.train.train import TrainingCallbacks, train
from tests.engines import InProcessEngine
from tests.release.fingerprints import arithmetic, digest, digests, without

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).with_name("release-0.1.0.tar.xz")
NEAR = {"rel_tol": 1e-3, "abs_tol": 2e-3}
CHANGING = ("imagen_training", "imagen_metrics")  # metrics of the present
FLOWS = (rebuild, backfill, train_flow, evaluate, promote_flow, approve_model, retrain, reconcile, verify, forget)
COMPUTED = ("t5_embedding", "clip_text_embedding")  # whose digests are of bits


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.path.append(str(folder))  # for the user's own scorers
    yield folder
    sys.path.remove(str(folder))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def answers(unpacked: Path) -> dict[str, Any]:
    """Of the release, about what it made."""
    return dict(json.loads((unpacked / "answers.json").read_text()))


@pytest.fixture(scope="module")
def exact(unpacked: Path, answers: dict[str, Any]) -> bool:
    """Whether this machine computes the same bits as the one that the archive was made on."""
    return arithmetic() == answers["arithmetic"]


@pytest.fixture
def release_folder(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in."""
    copy = tmp_path / "release"
    shutil.copytree(unpacked, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def release_lake(release_folder: Path) -> Lake:
    return Lake.open(str(release_folder / "lake"))


def recipe(**changes: Any) -> Recipe:
    """The lake's, with relative paths as the lake's versions have them in their lineage."""
    return Recipe.model_validate(yaml.safe_load(Path("shapes.yaml").read_text()) | changes)


def command(argv: list[str]) -> tuple[int, Any]:
    result = CliRunner().invoke(app, argv)
    assert result.exit_code < 2, (argv, result.output, result.exception)
    return result.exit_code, json.loads(result.stdout)


def check(value: Any, expected: Any, exact: bool, where: str = "") -> None:
    """Assert that two JSON values are the same; of computed numbers, that they are near if not exact."""
    if isinstance(expected, dict):
        assert isinstance(value, dict), where
        assert value.keys() == expected.keys(), where
        for name in expected:
            check(value[name], expected[name], exact or name in COMPUTED, f"{where}.{name}")
    elif isinstance(expected, list):
        assert isinstance(value, list), where
        assert len(value) == len(expected), where
        for place, part in enumerate(expected):
            check(value[place], part, exact, f"{where}.{place}")
    elif isinstance(expected, float) and isinstance(value, float) and not exact:
        assert math.isclose(value, expected, **NEAR), (where, value, expected)
    else:
        assert value == expected, (where, value, expected)


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def test_the_scripts_are_those_that_made_the_archive(unpacked: Path) -> None:
    """They run with the release's code: names that change today stay in them."""
    made_by = unpacked / "made_by"
    for path in made_by.rglob("*.*"):
        assert (ARCHIVE.parent / path.relative_to(made_by)).read_bytes() == path.read_bytes(), path.name


def test_recipes_and_configurations_mean_the_same(release_folder: Path, answers: dict[str, Any]) -> None:
    for name, expected in answers["yaml"].items():
        values = yaml.safe_load(Path(name).read_text())
        if "sources" in values:
            loaded: Any = load_recipe(name)
        elif "suite" in values:
            loaded = load_settings(name, {})
        else:
            loaded = load_config(name)
        check(without(loaded.model_dump(mode="json"), str(release_folder)), expected, True, name)


def test_shipped_recipes_and_presets_mean_the_same(release_folder: Path, answers: dict[str, Any]) -> None:
    assert {name: load_recipe(name).model_dump(mode="json") for name in shipped_recipes()} == answers["shipped"]
    for name, expected in answers["planned"].items():
        config = load_config(name)
        stages = range(len(config.resolved_cascade.stages))
        assert config.resolved_cascade.model_dump(mode="json") == expected["model"], name
        assert [config.training(stage).model_dump(mode="json") for stage in stages] == expected["training"], name
        assert [settings.model_dump(mode="json") for settings in config.sampling] == expected["sampling"], name


def test_an_import_of_a_moved_module_names_the_new_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "heads_of_mine.py").write_text("from data.weights import digest\n")
    with pytest.raises(ValueError, match=r"data\.weights has moved: import from data\.scorers\.pretrained$"):
        scorer_class("heads_of_mine.Head")


def test_the_environment_means_the_same(answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in answers["environment"].items():
        monkeypatch.setenv(name, value)
    assert read_settings().model_dump(mode="json") == answers["settings"]


def test_the_names_of_what_is_computed_stay(release_folder: Path, answers: dict[str, Any]) -> None:
    """Else all would be scored, encoded, read or trained again."""
    names = {name: load_config(name).hash for name in answers["hashes"] if name != "shapes.yaml"}
    assert names | {"shapes.yaml": recipe().hash} == answers["hashes"]
    loaded = load_recipe("shapes.yaml")
    tables = {name: scorer.table for name, scorer in (loaded.selection_scorers | loaded.describers).items()}
    assert (
        tables | {f"embed {name}": encoder_of(encoder).id for name, encoder in loaded.embed.items()}
        == answers["tables"]
    )
    criteria = [[type(criterion).__name__, criterion.label] for criterion in load_recipe("every-field.yaml").criteria]
    assert criteria == answers["criteria"]
    for file in answers["files"]:
        assert SourceFile(*file["at"], Source.model_validate(file["source"]).layout).id == file["id"], file["source"]


def test_the_world_is_drawn_as_it_was(answers: dict[str, Any]) -> None:
    for seed, expected in enumerate(answers["world"]):
        rng = np.random.default_rng(seed)
        scene = random_scene(rng, 96, 64)
        assert [caption_of(scene, rng), digest(draw(scene, rng).tobytes())] == expected
    assert load_suite("shapes").id == answers["suite"]


def test_the_platform_is_known_by_the_same_names(
    release_lake: Lake, release_folder: Path, answers: dict[str, Any]
) -> None:
    """Those that automations, schedules and dashboards have."""
    expected = answers["platform"]
    assert expected["events"] == [events.PUBLISHED, events.TRAINED, events.EVALUATED, events.JUDGED]
    for flow in FLOWS:
        properties, parameters = flow.parameters.model_dump(mode="json")["properties"], expected["flows"][flow.name]
        assert properties.keys() == parameters.keys(), flow.name
        for name, parameter in parameters.items():
            texts = {"description": "", "title": ""}
            assert properties[name] | texts == parameter | texts, (flow.name, name)
    assert {flow.name for flow in FLOWS} == expected["flows"].keys()
    metrics = LakeMetrics(release_lake, [load_recipe("shapes.yaml")], 0.0).collect()
    samples = [[sample.name, sample.labels, sample.value] for family in metrics for sample in family.samples]
    assert [sample for sample in samples if not sample[0].startswith(CHANGING)] == expected["metrics"]


def test_commands_say_the_same_of_a_lake(release_folder: Path, answers: dict[str, Any]) -> None:
    for entry in answers["commands"]:
        code, output = command(entry["argv"])
        check(without(output, str(release_folder)), entry["out"], True, " ".join(entry["argv"]))
        assert code == entry["exit"], entry["argv"]
    exported = {path.name: digest(path.read_bytes()) for path in Path("exported").glob("*.tar")}
    assert exported == answers["exported"]


def test_a_build_finds_nothing_to_do(release_lake: Lake, answers: dict[str, Any]) -> None:
    before = answers["versions"]
    built = build(release_lake, recipe(sources=[{"path": "known.parquet"}]), InProcessEngine())
    assert built.version == max(version["version"] for version in answers["commands"][0]["out"])
    assert not built.anything_done
    assert built.warning is None
    after = {name: release_lake.table(name).version for name in release_lake.table_names()}
    assert after == before | {"files": before["files"] + 1}


def test_the_next_build_does_what_it_would_have_done(release_lake: Lake, answers: dict[str, Any], exact: bool) -> None:
    shutil.copy("later/two.parquet", "came")
    built = build(release_lake, recipe(), InProcessEngine())
    expected = answers["increment"]
    check(asdict(built) | {"report": ""}, expected["built"], True, "built")
    rejects = release_lake.table("rejects").dataset().to_table(columns=["row", "reason", "content"]).to_pylist()
    assert rejects == expected["rejects"]
    rows = release_lake.table("datasets/shapes").dataset().to_table().sort_by("id").to_pylist()
    plain_rows = [{name: value for name, value in row.items() if name not in ("image", "image_16")} for row in rows]
    for row in plain_rows:
        row |= {name: digest(value) for name, value in row.items() if isinstance(value, bytes)}
    check(as_json(plain_rows), expected["rows"], exact, "rows")
    verdicts = release_lake.table("verdicts/shapes").dataset().to_table().sort_by("id").to_pylist()
    check(verdicts, expected["verdicts"], exact, "verdicts")


def test_a_reader_gives_the_same_samples(release_lake: Lake, answers: dict[str, Any]) -> None:
    expected = answers["reader"]
    reader = Reader(release_lake, "shapes", columns=expected["columns"], seed=3, rank=0, world=1)
    reader.set_epoch(1)
    assert [digests(sample) for sample in reader] == expected["samples"]


def test_a_readers_state_is_read(release_lake: Lake, answers: dict[str, Any]) -> None:
    expected = answers["reader"]
    reader = Reader(release_lake, "shapes", columns=expected["columns"], seed=3, rank=0, world=1)
    reader.load_state_dict(expected["state"])
    assert [digests(sample) for sample in reader] == expected["samples"][expected["given"] :]


def test_a_model_makes_the_same_picture(release_folder: Path, answers: dict[str, Any], exact: bool) -> None:
    generated = answers["picture"]["made"]
    argv = [part if part != "picture.png" else "again.png" for part in generated["argv"]]
    assert command(argv) == (0, generated["out"] | {"out": "again.png"})
    assert command(answers["picture"]["inspected"]["argv"]) == (0, answers["picture"]["inspected"]["out"])
    check_picture(Image.open("again.png"), exact)


def test_plain_diffusers_opens_the_model(
    release_folder: Path, release_lake: Lake, answers: dict[str, Any], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the code that the release wrote into the model's folder."""
    monkeypatch.setattr(diffusers.utils.dynamic_modules_utils, "HF_MODULES_CACHE", str(release_folder / "modules"))
    where = release_folder / "lake" / find_model(release_lake, "cascade/champion").folder
    pipe = DiffusionPipeline.from_pretrained(where, trust_remote_code=True)
    assert type(pipe).__module__.startswith("diffusers_modules.")
    expected = answers["picture"]
    check_picture(pipe(expected["prompt"], seed=expected["seed"]).images[0], exact)


def check_picture(picture: Image.Image, exact: bool) -> None:
    levels, expected = (np.asarray(image).astype(int) for image in (picture, Image.open("picture.png")))
    assert levels.shape == expected.shape
    assert np.abs(levels - expected).max() <= (0 if exact else 8)


def test_what_a_training_measured_is_read(release_lake: Lake, answers: dict[str, Any]) -> None:
    training = Path(release_lake.url, "training", Path(find_model(release_lake, "cascade/1").folder).name)
    assert newest_measure(str(training / "stage-2" / "measures")) == answers["measures"]


def test_retraining_is_decided_the_same(release_lake: Lake, answers: dict[str, Any]) -> None:
    rows = [
        *decisions_on_version(release_lake, "cascade", "shapes", 5),
        *decisions_on_version(release_lake, "others", "shapes", 2),
    ]
    assert as_json(rows) == answers["retrains"]["rows"]
    now, policy = datetime(2030, 1, 1, tzinfo=UTC), RetrainPolicy(grown=0.05, drift=0.2, days=1, hours=0.5)
    decided = [asdict(decide(release_lake, name, "shapes", None, policy, now)) for name in ("cascade", "others")]
    assert decided == answers["retrains"]["decided"]


def test_the_gate_decides_the_same(release_lake: Lake, answers: dict[str, Any]) -> None:
    """By figures and approvals that are there: no picture is made again."""
    evaluations = sorted(Path(release_lake.url, "evaluations").iterdir())
    promote(plan_candidate(release_lake, "cascade/2"), InProcessEngine(), who="ann")
    judged = promote(plan_candidate(release_lake, "cascade/3"), InProcessEngine(), who="ann")
    decision = {name: value for name, value in asdict(judged.decision).items() if name not in ("at", "code")}
    assert {**decision, "answer": judged.verdict.answer} == answers["promoted"]
    assert release_lake.table("evals").version == answers["versions"]["evals"]
    assert sorted(Path(release_lake.url, "evaluations").iterdir()) == evaluations


def test_a_stopped_training_ends_as_it_would_have(release_lake: Lake, answers: dict[str, Any], exact: bool) -> None:
    expected, losses = answers["resumed"], list[list[float]]()
    watch = TrainingCallbacks(on_step=lambda stage, step, done: losses.append([step.step, step.loss]))
    trained = train(
        plan_training(release_lake, load_config("unfinished.yaml"), "shapes"), callbacks=watch, cpu=True
    ).trained
    assert trained is not None
    check(losses, expected["losses"], exact, "losses")
    names = [name for name in expected["model"] if exact or name != "digest"]
    assert {name: getattr(trained, name) for name in names} == {name: expected["model"][name] for name in names}
    weights = dict(Imagen.from_pretrained(trained.reference, release_lake.url).unet.state_dict())
    for name, value in load_file("resumed.safetensors").items():
        assert torch.equal(weights[name], value) or (not exact and torch.allclose(weights[name], value, 1e-3, 1e-4))
