"""Make `release-0.1.0.tar.xz`: what a user of the release 0.1.0 has on disk, and what its code answers about it.

It runs with the code of that release (commit f9b0e77, the last before its files moved into folders), and so imports by
the paths of that time: don't bring them up to date. With a clone of that commit in `release/`:

    PYTHONPATH=release python tests/release/make_release.py release-0.1.0.tar.xz

The archive holds a lake with a dataset of several versions, three models, decisions about them and an unfinished
training; the files of `written/`; `answers.json`; and these scripts, which a test holds to be the ones that made it.
`test_release.py` opens it with the code of today.
"""

import json
import os
import shutil
import signal
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "DO_NOT_TRACK": "1"}

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from release_answers import Here, answer, recipe
from safetensors.torch import save_file

from data.blocklist import Entry, add
from data.build import build
from data.forget import forget
from data.lake import Lake
from data.world.make import HOST, make_world
from data.world.server import OriginServer
from imagen.approvals import approve
from imagen.config import load_config
from imagen.errors import TrainingStopped
from imagen.evaluate.evaluation import evaluate
from imagen.model import Imagen
from imagen.models import add_model, find_model
from imagen.promote import candidate, promote
from imagen.registry import decide, rollback
from imagen.retrain import RetrainPolicy, record
from imagen.retrain import decide as decide_training
from imagen.train import Watch, train
from imagen.training import planned

HERE = Path(__file__).parent  # whose scripts go into the archive too: see test_release.py
PAIRS, SEED = 40, 5


def make(out: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as moved:
        os.chdir(folder)
        sys.path.append(folder)
        shutil.copytree(HERE, "made_by", ignore=shutil.ignore_patterns("__*", "*.xz", "test_*"))
        write_files()
        lake = make_dataset()
        make_models(lake)
        stop_training(lake)
        # As the test has it: the same files, in another place and of another time.
        shutil.copytree(folder, moved, copy_function=shutil.copy, dirs_exist_ok=True)
        os.chdir(moved)
        answers = answer(moved)
        Path(folder, "answers.json").write_text(json.dumps(answers, indent=1, default=str))
        for name in ("picture.png", "resumed.safetensors"):
            shutil.copy(Path(moved, name), folder)
        os.chdir(out.parent)
        with tarfile.open(out, "w:xz", preset=9) as archive:
            for path in sorted(Path(folder).iterdir()):
                if path.name not in ("world", "__pycache__"):
                    archive.add(path, path.name)


def write_files() -> None:
    """The user's own files."""
    for path in (HERE / "written").iterdir():
        if path.is_file():
            shutil.copy(path, ".")
    Path("concepts.txt").write_text(
        "\n".join(["circle", "square", "star", "red circle", "blue", "green", "a", "one", "two"])
    )
    rows = ["url,caption", ",a row without a URL", f"http://{HOST}/nowhere.jpg,what is not there"]
    Path("listed.csv").write_text("\n".join(rows))
    Path("none.txt").write_text("# an empty list\n")
    Path("forbidden.txt").write_text(f"# of nobody's\n{'0' * 64}\n")
    rng = torch.Generator().manual_seed(1)
    layers = {"weight": torch.randn(1, 128, generator=rng), "bias": torch.tensor([5.0])}
    save_file(layers, "head.safetensors")
    make_world(Path("world"), PAIRS, SEED, processes=1)
    shutil.copy("world/pairs.parquet", ".")
    carry("came/one.parquet", range(3))
    carry("later/two.parquet", range(3, 6))


def carry(path: str, numbers: range) -> None:
    """A source whose pictures come along."""
    rows = pq.read_table("world/labels.parquet", filters=[("right", "=", True), ("origin", "=", "ok")]).to_pylist()
    files = {row["path"]: row["file"] for row in pq.read_table("world/origin.parquet").to_pylist()}
    table = {name: [] for name in ("link", "text", "picture", "punsafe", "kind")}
    for number in numbers:
        row = rows[number]
        table["link"].append(f"http://carried.test/{number}")
        table["text"].append(f"{row['caption']} number {number}")
        table["picture"].append(Path("world", files[row["url"].replace(f"http://{HOST}", "")]).read_bytes())
        table["punsafe"].append(number / 10)
        table["kind"].append("carried")
    Path(path).parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), path)


def make_dataset() -> Lake:
    """`shapes`: built, built anew by stricter criteria, after a picture changed, and after a pair was forgotten."""
    lake = Lake.make("lake", 2)
    with OriginServer(Path("world")) as server:
        lake.allow(HOST, server.address)
        fewer = recipe(select=[{"caption_words": {"min": 2}}, {"clip_score": {"top": 0.9}}])
        build(lake, fewer, Here())
        build(lake, recipe(), Here())
        change_picture(lake)
        build(lake, recipe(download={"refetch_days": 0}), Here())
    add(lake, [Entry("domain", "bad.test", "theirs"), Entry("phash", "0123456789abcdef", "seen")])
    forget(lake, "url", kept_url(lake, 0), "asked to")
    build(lake, recipe(), Here())
    known = lake.table("datasets/shapes").dataset().to_table(columns=["url", "caption"])
    pq.write_table(known.slice(0, 1), "known.parquet")
    return lake


def change_picture(lake: Lake) -> None:
    """What lies at the URL of a kept pair becomes another picture."""
    path = kept_url(lake, 1).replace(f"http://{HOST}", "")
    files = {row["path"]: row["file"] for row in pq.read_table("world/origin.parquet").to_pylist()}
    other = next(file for page, file in files.items() if page != path and file.rpartition(".")[2] == files[path][-3:])
    shutil.copy(f"world/{other}", f"world/{files[path]}")


def kept_url(lake: Lake, place: int) -> str:
    """Of a kept pair that was fetched."""
    rows = lake.table("datasets/shapes").dataset().to_table(columns=["id", "url"]).sort_by("id").to_pylist()
    return [row["url"] for row in rows if HOST in row["url"]][place]


def make_models(lake: Lake) -> None:
    """`cascade/1` is trained, /2 and /3 are like it; each is evaluated, and decisions follow."""
    config = load_config("cascade.yaml")
    ended = train(planned(lake, config, "shapes"), cpu=True)
    trained = ended.trained
    for stage in ("stage-1", "stage-2"):  # nobody reads them again
        shutil.rmtree(Path(ended.url, stage, "checkpoints"))
    for number in (2, 3):
        model = Imagen.from_pretrained("cascade/1", "lake")
        rng = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.unet.last.parameters():  # few, for the sake of the archive's size
                parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
        lineage = {"dataset": trained.dataset, "version": trained.version, "stages": trained.stages}
        add_model(lake, config, f"{number:x}" * 32, model, lineage)
    promote(candidate(lake, "cascade/1"), Here(), who="ann")
    promote(candidate(lake, "cascade/2"), Here(), "a first look", "ann")
    decide(lake, "cascade", "promote", 2, 1, "its stars are nicer", who="bob")
    rollback(lake, "cascade", "washed-out colours", "ann")
    evaluate(candidate(lake, "cascade/3").evaluation, Here())
    approve(lake, find_model(lake, "cascade/3"), "its circles are nicer", "bob")
    policy = RetrainPolicy(grown=0.2, drift=0.3, days=7, hours=2)
    record(lake, decide_training(lake, "cascade", "shapes", None, policy), policy)
    record(lake, decide_training(lake, "others", "shapes", 2, policy), policy)


def stop_training(lake: Lake) -> None:
    """`unfinished` is told to end after its third step."""

    def on_step(stage: int, told: Any, done: float) -> None:
        if told.step == 3:
            signal.raise_signal(signal.SIGTERM)

    try:
        train(planned(lake, load_config("unfinished.yaml"), "shapes"), watch=Watch(on_step=on_step), cpu=True)
    except TrainingStopped:
        return
    raise AssertionError("the training was not stopped")


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
