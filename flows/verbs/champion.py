"""The verbs that say which model of a name is its champion."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.terminal.options import JsonOption, LakeOption, WorkersOption, write_json
from flows.verbs.evaluate import evaluating, tellers

REJECTED, ASKED = 1, 3  # exit codes of a promotion that changed nothing
WhoOption = Annotated[str | None, typer.Option(show_default=False, help="Who decides; the user if not given.")]
WhyOption = Annotated[str | None, typer.Option(show_default=False, help="Kept with the decision.")]


def models(
    lake: LakeOption = "lake",
    name: Annotated[str | None, typer.Argument(show_default=False, help="Only of this name.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Every trained cascade: candidate, champion or retired, what it was made of, and its figures.

    Example: imagen models
    """
    from data.lake.lake import Lake
    from imagen.evaluate.leaderboard import latest
    from imagen.models.registry import decisions, state_of
    from imagen.models.table import models as trained

    opened = Lake.open(lake)
    past, figures = decisions(opened), latest(opened)
    found = [
        (one, state_of([each for each in past if each.name == one.name], one.number), figures.get(one.reference, {}))
        for one in trained(opened)
        if name in (None, one.name)
    ]
    if as_json:
        write_json([{**vars(one), "state": state, "figures": said} for one, state, said in found])
    else:
        from flows.terminal.model_tables import show_models

        show_models(found, lake)


def promote(
    model: Annotated[str, typer.Argument(help="NAME/NUMBER in the lake.")],
    lake: LakeOption = "lake",
    config: Annotated[
        Path | None,
        typer.Option(show_default=False, help="The gate of this configuration, not of the one it was trained by."),
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Whatever the gate says: you decide, and say why.")] = False,
    why: WhyOption = None,
    who: WhoOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold a model against the champion by the rules of its gate, and make it champion if they say so.

    Exit code 0: promoted, 1: rejected, 3: a person must decide (--anyway --why ...).

    Example: imagen promote shapes/2
    """
    from data.lake.lake import Lake
    from imagen.champion.promote import candidate
    from imagen.champion.promote import promote as run_promotion
    from imagen.config.training import load_config

    if anyway and not why:
        raise typer.BadParameter("who promotes whatever the gate says gives a reason: --why", param_hint="--anyway")
    gate = load_config(str(config)).gate if config else None
    asked = candidate(Lake.open(lake), model, gate)
    with evaluating(workers, as_json) as engine:
        judged = run_promotion(asked, engine, why, who, anyway, *tellers())
    if as_json:
        write_json({**vars(judged.decision), "answer": judged.verdict.answer})
    else:
        from flows.terminal.model_tables import show_judged

        show_judged(asked, judged)
    if judged.decision.act != "promote":
        raise typer.Exit(ASKED if judged.decision.act == "ask" else REJECTED)


def approve(
    model: Annotated[str, typer.Argument(help="NAME/NUMBER in the lake.")],
    why: Annotated[str, typer.Option(help="Kept with your word.")],
    lake: LakeOption = "lake",
    who: WhoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a model may become champion where its gate asks for a person. Your word is for these weights alone.

    Example: imagen approve shapes/2 --why "its stars are nicer"
    """
    from data.lake.lake import Lake
    from imagen.models.approvals import approve as give
    from imagen.models.table import find_model

    opened = Lake.open(lake)
    given = give(opened, find_model(opened, model), why, who)
    if as_json:
        write_json(vars(given))
    else:
        sys.stdout.write(f"{given.model} is approved by {given.who}. Promote it: imagen promote {given.model}\n")


def rollback(
    name: Annotated[str, typer.Argument(help="Of the models: shapes.")],
    lake: LakeOption = "lake",
    why: WhyOption = None,
    who: WhoOption = None,
    as_json: JsonOption = False,
) -> None:
    """The champion before this one is champion again.

    Example: imagen rollback shapes --why "washed-out colours"
    """
    from data.lake.lake import Lake
    from imagen.models.registry import rollback as undo

    decision = undo(Lake.open(lake), name, why or "rolled back", who)
    if as_json:
        write_json(vars(decision))
    else:
        sys.stdout.write(f"{name}/{decision.champion} is champion of {name} again\n")
