"""The flow `promote`: nothing uncertain is promoted without a person's approval, also by runs that were killed."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from data.lake.lake import Lake
from imagen.evaluate.evals import TABLE as EVALS
from imagen.models.approvals import approve
from imagen.models.registry import Decision, champion_of, decisions
from imagen.models.table import find_model
from tests.flows.flow_process import force_crashed, kill_tree, start_flow
from tests.servers.prefect_api import runs_in_lake
from tests.shared import copy_of


def run_promote(server: str, model: str, lake: str) -> str:
    """The flow's answer. Call it in another process: one that ran a flow forks children that end with code 1."""
    from flows.runs.promote import promote

    with temporary_settings({PREFECT_API_URL: server}):
        return promote(model, lake, 1)


CHAMPION, CANDIDATE = "judged/1", "judged/2"


@pytest.fixture(scope="module")
def judged_lake(pictured_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with two models that differ by little, and by nothing that their gate measures."""
    from tests.lakes.trained import add_perturbed_model  # which loads torch

    folder = tmp_path_factory.mktemp("promote")
    (folder / "few.csv").write_text("prompt\na red star\na blue ring\n")
    lake = copy_of(pictured_lake, folder / "lake")
    gate = {"evaluate": {"suite": str(folder / "few.csv")}, "rules": [{"metric": "right", "gain": 0}]}
    assert [add_perturbed_model(lake, number, name="judged", gate=gate) for number in (2, 3)] == [CHAMPION, CANDIDATE]
    return lake


@pytest.fixture(scope="module")
def promote(judged_lake: Lake, prefect_server: str) -> Iterator[Callable[[str], str]]:
    """Run the flow to its end and give its answer."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield lambda model: process.submit(run_promote, prefect_server, model, judged_lake.url).result()


@dataclass(frozen=True)
class Judged:
    """What came of a candidate: of runs that were killed, of two after them, and of two after it was approved."""

    champions: list[int | None]  # after each kill
    unapproved: list[str]  # answers
    approved: list[str]
    states: list[str]  # of the runs that were not killed
    decisions: list[Decision]  # after that on the first champion


@pytest.fixture(scope="module")
def judged(judged_lake: Lake, promote: Callable[[str], str], prefect_server: str) -> Judged:
    def runs() -> list[dict[str, Any]]:
        return [
            run for run in runs_in_lake(prefect_server, "promote", judged_lake.url) if run["name"].endswith(CANDIDATE)
        ]

    def is_measured() -> bool:
        table = judged_lake.find(EVALS)
        return table is not None and CANDIDATE in table.dataset().to_table(columns=["model"])["model"].to_pylist()

    moments: list[Callable[[], object]] = [
        lambda: any(run["state_type"] == "RUNNING" for run in runs()),
        lambda: len(list(Path(judged_lake.url).glob("evaluations/*/images"))) == 2,
        is_measured,
        lambda: len(decisions(judged_lake, "judged")) == 2,
    ]
    assert promote(CHAMPION) == "promote"
    champions, killed = [], set[str]()
    for moment in moments:
        process = start_flow("promote", Path(judged_lake.url).parent, prefect_server, model=CANDIDATE, workers=1)
        while not moment() and process.poll() is None:
            time.sleep(0.02)
        kill_tree(process)
        champions.append(champion_of(decisions(judged_lake, "judged")))
        for run in runs():
            killed.add(run["id"])  # the last may have reported its decision before
            if run["state_type"] == "RUNNING":
                force_crashed(prefect_server, run["id"])
    unapproved = [promote(CANDIDATE) for _ in range(2)]
    approve(judged_lake, find_model(judged_lake, CHAMPION), "of other weights", "bob")
    unapproved.append(promote(CANDIDATE))
    approve(judged_lake, find_model(judged_lake, CANDIDATE), "that one", "ann")
    approved = [promote(CANDIDATE) for _ in range(2)]
    states = [run["state_name"] for run in runs() if run["id"] not in killed]
    return Judged(champions, unapproved, approved, states, decisions(judged_lake, "judged")[1:])


def test_no_killed_run_changes_the_champion(judged: Judged) -> None:
    assert judged.champions == [1, 1, 1, 1]


def test_without_an_approval_of_its_weights_a_person_is_asked(judged: Judged) -> None:
    assert judged.unapproved == ["ask", "ask", "ask"]
    assert judged.states.count("NeedsApproval") == 3


def test_an_approved_candidate_is_promoted_and_stays_it(judged: Judged) -> None:
    assert judged.approved == ["promote", "promote"]
    last = judged.decisions[-1]
    assert (last.act, last.who) == ("promote", "ann")


def test_every_judgement_before_the_approval_was_to_ask(judged: Judged) -> None:
    before = judged.decisions[:-1]
    assert len(before) > 3
    assert {(decision.act, decision.who) for decision in before} == {("ask", "the flow promote")}
