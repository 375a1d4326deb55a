"""The verbs of the champion among the models of a name: models, promote, approve, rollback."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.terminal.options import JsonOption, LakeOption, WorkersOption, write_json
from flows.verbs.evaluate import evaluating, progress_callbacks

REJECTED, NEEDS_APPROVAL = 1, 3  # exit codes of `promote` if the champion stays
WhoOption = Annotated[str | None, typer.Option(show_default=False, help="Who decides; the current user if not given.")]
WhyOption = Annotated[str | None, typer.Option(show_default=False, help="The reason, stored with the decision.")]


def models(
    lake: LakeOption = "lake",
    name: Annotated[str | None, typer.Argument(show_default=False, help="Only models of this name.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the trained models of a lake.

    Each with its state (candidate, champion or retired), its dataset version and its figures.

    Example: imagen models
    """
    from data.lake.lake import Lake
    from imagen.evaluate.leaderboard import latest_figures
    from imagen.models.registry import decisions, state_of
    from imagen.models.table import models as trained_models

    opened = Lake.open(lake)
    past, newest_figures = decisions(opened), latest_figures(opened)
    rows = []
    for model in trained_models(opened):
        if name in (None, model.name):
            state = state_of([decision for decision in past if decision.name == model.name], model.number)
            rows.append((model, state, newest_figures.get(model.reference, {})))
    if as_json:
        write_json([{**vars(model), "state": state, "figures": figures} for model, state, figures in rows])
    else:
        from flows.terminal.model_tables import show_models

        show_models(rows, lake)


def promote(
    model: Annotated[str, typer.Argument(help="NAME/NUMBER in the lake.")],
    lake: LakeOption = "lake",
    config: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Use the gate of this configuration (.yaml) instead of the model's own."),
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Promote regardless of the gate; needs --why.")] = False,
    why: WhyOption = None,
    who: WhoOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model champion if its gate allows it.

    The model is compared with the current champion on the same prompts and seeds. Exit code 0: promoted, 1: rejected,
    3: a person must decide (see `imagen approve`).

    Example: imagen promote shapes/2
    """
    from data.lake.lake import Lake
    from imagen.champion.promote import plan_candidate
    from imagen.champion.promote import promote as run_promotion
    from imagen.config.training import load_config

    if anyway and not why:
        raise typer.BadParameter("a promotion regardless of the gate needs a reason: --why", param_hint="--anyway")
    gate = load_config(str(config)).gate if config else None
    challenger = plan_candidate(Lake.open(lake), model, gate)
    with evaluating(workers, as_json) as engine:
        judged = run_promotion(challenger, engine, why, who, anyway, *progress_callbacks())
    if as_json:
        write_json({**vars(judged.decision), "answer": judged.verdict.answer})
    else:
        from flows.terminal.model_tables import show_judged

        show_judged(challenger, judged)
    if judged.decision.act != "promote":
        raise typer.Exit(NEEDS_APPROVAL if judged.decision.act == "ask" else REJECTED)


def approve(
    model: Annotated[str, typer.Argument(help="NAME/NUMBER in the lake.")],
    why: Annotated[str, typer.Option(help="The reason, stored with the approval.")],
    lake: LakeOption = "lake",
    who: WhoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve a model whose gate asks for a person.

    The approval is tied to the digest of these weights. It does not promote the model: run `imagen promote` afterwards.

    Example: imagen approve shapes/2 --why "its stars are nicer"
    """
    from data.lake.lake import Lake
    from imagen.models.approvals import approve as add_approval
    from imagen.models.table import find_model

    opened = Lake.open(lake)
    approval = add_approval(opened, find_model(opened, model), why, who)
    if as_json:
        write_json(vars(approval))
    else:
        sys.stdout.write(
            f"{approval.model} is approved by {approval.who}. Promote it: imagen promote {approval.model}\n"
        )


def rollback(
    name: Annotated[str, typer.Argument(help="Name of the models, such as shapes.")],
    lake: LakeOption = "lake",
    why: WhyOption = None,
    who: WhoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the previous champion the champion again.

    Example: imagen rollback shapes --why "washed-out colours"
    """
    from data.lake.lake import Lake
    from imagen.models.registry import rollback as run_rollback

    decision = run_rollback(Lake.open(lake), name, why or "rolled back", who)
    if as_json:
        write_json(vars(decision))
    else:
        sys.stdout.write(f"{name}/{decision.champion} is champion of {name} again\n")
