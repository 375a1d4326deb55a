"""The flow `promote`: compare a model with the champion and promote it if its gate allows it.

If the gate asks for a person, the flow needs an approval in the lake, tied to the digest of the weights. No run
promotes without it, however often it was killed or retried.
"""

from prefect import flow
from prefect.states import Completed, State

from data.engine.choose import open_engine
from data.lake.lake import Lake
from flows.runs.evaluate import measured, report_link, show_figures
from flows.server.artifacts import key_of, show_table
from flows.server.events import model_judged
from imagen.champion.promote import Promotion, decide_promotion, plan_candidate
from imagen.champion.report import write_report
from imagen.models.registry import champion_of, decisions
from imagen.models.table import find_model

NEEDS_APPROVAL = "NeedsApproval"


@flow(name="promote", flow_run_name="promote-{model}", persist_result=False)
def promote(model: str, lake: str = "lake", workers: int | None = None) -> "str | State[str]":
    """Judge a model by its gate: promote it, reject it, or ask for a person (imagen approve MODEL --why ...).

    Args:
        model: NAME/NUMBER
        lake: folder or URL of the lake
        workers: worker processes; one per core if not given

    Returns:
        promote, reject or ask.
    """
    opened = Lake.open(lake)
    trained = find_model(opened, model)
    if champion_of(decisions(opened, trained.name)) == trained.number:
        return "promote"  # a run that was killed, or somebody else, did it
    challenger = plan_candidate(opened, model)
    with open_engine(workers, threads=1) as engine:
        rows = measured(challenger.evaluation, engine)
        if challenger.against is not None:
            measured(challenger.against, engine)
    judged = decide_promotion(challenger, rows, who="the flow promote")
    decision = judged.decision
    model_judged(lake, model, decision.act, decision.champion, decision.why)
    page = write_report(trained, challenger.evaluation, rows, challenger.against)
    show_figures(challenger.evaluation, rows, page)
    show(judged, page)
    if decision.act == "ask":
        return Completed(
            name=NEEDS_APPROVAL,
            message=f"approve it with `imagen approve {model} --why ...` and run this again",
            data="ask",
        )
    return decision.act


def show(judged: Promotion, page: str | None) -> None:
    """Show the gate's reasons as an artifact of the run."""
    decision = judged.decision
    show_table(
        key=key_of("gate", decision.name, str(decision.number)),
        table=[vars(reason) for reason in judged.verdict.reasons],
        description=f"{decision.name}/{decision.number}: the gate says {judged.verdict.answer}; {decision.act} by "
        f"{decision.who}: {decision.why}" + report_link(page),
    )
