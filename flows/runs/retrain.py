"""The flow `retrain`: decide by a policy whether to train on a dataset version; if so, train, evaluate and promote.

The decision and its figures are recorded either way: a row of `retrains` and a table artifact.
"""

from prefect import flow

from data.lake.lake import Lake
from flows.runs.evaluate import evaluate
from flows.runs.promote import promote
from flows.runs.train import train
from flows.server.artifacts import key_of, show_table
from imagen.champion.retrain import RetrainDecision, RetrainPolicy, decide, record_decision
from imagen.config.training import load_config


@flow(name="retrain", flow_run_name="retrain-on-{dataset}", persist_result=False)
def retrain(
    dataset: str,
    config: str = "tiny",
    version: int | None = None,
    lake: str = "lake",
    name: str | None = None,
    minutes: float | None = None,
    processes: int = 1,
    workers: int | None = None,
    policy: RetrainPolicy | None = None,
) -> str | None:
    """Decide whether to train; if so, train, evaluate and promote.

    Args:
        dataset: the dataset's name
        config: a configuration (.yaml), or a preset: tiny, small, imagen-2b
        version: version of the dataset; the newest if not given
        lake: folder or URL of the lake
        name: name of the model; the configuration's if not given
        minutes: minutes of training per stage, instead of the configuration's steps
        processes: training processes on this machine
        workers: worker processes of the evaluation
        policy: when a version is worth a training

    Returns:
        NAME/NUMBER of the trained model; None if nothing was trained.
    """
    opened, policy = Lake.open(lake), policy or RetrainPolicy()
    model_name = name or load_config(config).name
    decided = decide(opened, model_name, dataset, version, policy)
    record_decision(opened, decided, policy)
    show(decided)
    if not decided.train:
        return None
    model = train(config, dataset, decided.version, lake, name, minutes, processes)
    evaluate(model, lake, workers=workers)
    promote(model, lake, workers)
    return model


def show(decided: RetrainDecision) -> None:
    """Show the decision as an artifact of the run."""
    show_table(
        key=key_of("retrain", decided.name, decided.dataset),
        table=[{"figure": name, "value": f"{value:.3f}"} for name, value in decided.figures.items()],
        description=f"{'Train' if decided.train else 'Do not train'} {decided.name} on {decided.dataset}@"
        f"{decided.version}: {decided.why}",
    )
