"""The page on a model: opened in a browser, it shows what it promises, and what is hostile is only text."""

import html
import io
import re
from pathlib import Path

import pytest

from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import GRIDS_FOLDER, TRAINING_FOLDER
from data.pictures.contact_sheet import draw_contact_sheet
from data.scorers.clip import ClipScore
from imagen.champion.report import plan_report, report
from imagen.config.evaluation import EvaluateSettings
from imagen.evaluate.evaluation import evaluate
from imagen.evaluate.sweep import choose_axes, plan_sweep, sweep
from imagen.models.registry import add_decision
from tests.engines import InProcessEngine
from tests.imagen.metrics.painted import painted
from tests.servers.chromium import needs_chromium, opened
from tests.shared import copy_of

HOSTILE = '<img src=x onerror="console.error(1)"><script>console.error(2)</script>'


@pytest.fixture(scope="module")
def page(three_models_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    lake = copy_of(three_models_lake, folder / "lake")
    prompts = ["a red circle", "a blue star", f"{HOSTILE} {{{{ 7 * 7 }}}}", "a green ring"]
    lines = [f'"{prompt.replace(chr(34), chr(34) * 2)}",{HOSTILE.replace(chr(34), "")}' for prompt in prompts]
    (folder / "few.csv").write_text("\n".join(["prompt,category", *lines]))
    clip = {"clip": ClipScore(model="built-in")}
    settings = EvaluateSettings(suite=str(folder / "few.csv"), clip=clip, distances=("kid", "cmmd"))
    add_decision(lake, "little", "promote", 2, None, "the first")
    add_decision(lake, "little", "reject", 1, 2, HOSTILE)
    points = plan_sweep(lake, "little/1", settings, [1.0, 4.0], [2], [])
    sweep(points, InProcessEngine(), choose_axes(points[0]))
    trained, evaluation, rival = plan_report(lake, "little/1", settings)
    stage = storage.join(lake.url, TRAINING_FOLDER, f"little-{trained.id[:12]}", "stage-1")
    grid = io.BytesIO()
    draw_contact_sheet([painted("a red circle", 0, True)] * 2, [""] * 2, 2).save(grid, "PNG")
    storage.write(storage.join(stage, GRIDS_FOLDER, "step-000000008.png"), grid.getvalue())
    assert rival is not None
    rows, _ = (evaluate(planned, InProcessEngine()) for planned in (evaluation, rival))
    (folder / "model.html").write_text(report(trained, evaluation, rows, rival))
    return folder / "model.html"


@pytest.fixture(scope="module")
def opened_page(page: Path) -> tuple[str, list[str]]:
    """What a browser shows of the page, and the lines of its console."""
    return opened(page)


@needs_chromium
def test_a_browser_opens_the_page_without_a_complaint(opened_page: tuple[str, list[str]]) -> None:
    _, console = opened_page
    assert console == []


@needs_chromium
def test_the_page_says_which_model_it_is_about(opened_page: tuple[str, list[str]]) -> None:
    shown, _ = opened_page
    assert re.findall(r"<h1>(\w+)<span>/(\d)</span>", shown) == [("little", "1")]
    assert "candidate, trained" in shown
    assert "drawn@1, 24 samples" in shown


@needs_chromium
def test_the_page_has_every_section_with_its_figures_and_pictures(opened_page: tuple[str, list[str]]) -> None:
    shown, _ = opened_page
    for part in ("metrics", "pairs", "sweep", "worst", "training", "lineage"):
        assert f'<section id="{part}">' in shown
    assert shown.count('<figure class="out">') == 4
    assert {"clip_score", "kid_clip", "cmmd_clip"} <= set(re.findall(r"<td>(\w+)</td>", shown))
    assert shown.count("<svg") == 3  # the sweep, and two stages' losses
    assert "step-000000008: above, pictures of the dataset" in shown


@needs_chromium
def test_hostile_prompts_are_shown_as_text(opened_page: tuple[str, list[str]]) -> None:
    shown, _ = opened_page
    assert html.escape(HOSTILE, quote=False) in shown
    assert "{{ 7 * 7 }}" in shown
    assert "<script" not in shown


@needs_chromium
def test_a_blocked_script_is_a_line_on_the_console(page: Path) -> None:
    wrong = page.with_name("wrong.html")
    wrong.write_text(page.read_text().replace("<main>", "<main><script>console.error(2)</script>", 1))
    assert any("Content Security Policy" in line for line in opened(wrong)[1])


def test_the_page_loads_nothing_from_elsewhere(page: Path) -> None:
    addresses = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'\s>)]+)", page.read_text())
    assert {address.partition(",")[0] for address in addresses if address != "x"} == {"data:image/png;base64"}


def test_a_page_is_written_without_a_rival_and_measures(three_models_lake: Lake, page: Path, tmp_path: Path) -> None:
    lake = copy_of(three_models_lake, tmp_path / "lake")
    settings = EvaluateSettings(
        suite=str(page.with_name("few.csv")), clip={"clip": ClipScore(model="built-in")}, distances=("kid",)
    )
    trained, evaluation, rival = plan_report(lake, "little/3", settings)  # was not trained here
    assert rival is None
    text = report(trained, evaluation, evaluate(evaluation, InProcessEngine()), None)
    assert "Its loss records are not in the lake any more." in text
    assert '<section id="pairs">' not in text
