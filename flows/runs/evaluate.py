"""The flow `evaluate`: generate a suite's prompts with a model, score the pictures and store the figures."""

from typing import Any

from prefect import flow

from data.engine.choose import open_engine
from data.engine.pool import Engine
from data.lake.lake import Lake
from flows.runs.stages import run_stage
from flows.server.artifacts import key_of, show_table
from flows.server.events import model_evaluated
from imagen.champion.promote import gate_of
from imagen.champion.report import write_report
from imagen.config.evaluation import load_settings
from imagen.evaluate.evaluation import ALL, Evaluation, complete_evaluation, plan_evaluation
from imagen.models.table import find_model


@flow(name="evaluate", flow_run_name="evaluate-{model}", persist_result=False)
def evaluate(model: str, lake: str = "lake", config: str | None = None, workers: int | None = None) -> dict[str, float]:
    """Measure a model and store the figures in `evals`. Work that is done already is not repeated.

    Args:
        model: NAME/NUMBER, or NAME/champion
        lake: folder or URL of the lake
        config: evaluation settings (.yaml); those of the model's gate if not given
        workers: worker processes; one per core if not given

    Returns:
        The figures over all prompts, by metric.
    """
    opened = Lake.open(lake)
    trained = find_model(opened, model)
    evaluation = plan_evaluation(opened, model, load_settings(config, {}) if config else gate_of(trained).evaluate)
    with open_engine(workers, threads=1) as engine:
        rows = measured(evaluation, engine)
    show_figures(evaluation, rows, write_report(trained, evaluation, rows, None))
    figures = {row["metric"]: row["value"] for row in rows if row["slice"] == ALL}
    model_evaluated(lake, evaluation.model, evaluation.generation.suite.name, figures)
    return figures


def measured(evaluation: Evaluation, engine: Engine) -> list[dict[str, Any]]:
    """Do the missing work of an evaluation, and return its rows of `evals`."""
    return complete_evaluation(evaluation, lambda lake, stage, rows: run_stage(lake, stage, engine, rows))


def show_figures(evaluation: Evaluation, rows: list[dict[str, Any]], page: str | None = None) -> None:
    """Show the figures and the URL of the report page as an artifact of the run."""
    show_table(
        key=key_of("evals", evaluation.model),
        table=[
            {
                "metric": row["metric"],
                "slice": row["slice"],
                "value": f"{row['value']:.3g}",
                "interval": f"{row['low']:.3g} to {row['high']:.3g}",
                "pictures": row["n"],
            }
            for row in rows
        ],
        description=f"{evaluation.model} on {evaluation.generation.suite.name}, beside "
        f"{evaluation.dataset}@{evaluation.version}" + report_link(page),
    )


def report_link(page: str | None) -> str:
    """Return the end of a description that names the report page; empty if there is no page."""
    return f"; report: {page}" if page else ""
