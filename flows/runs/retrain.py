"""The flow `retrain`: a policy says whether a dataset version is worth a training, and if it is, all that follows.

The decision and its figures are a row of `retrains` and a table on the run's page, either way.
"""

from prefect import flow

from data.lake.lake import Lake
from flows.runs.evaluate import evaluate
from flows.runs.promote import promote
from flows.runs.train import train
from flows.server.artifacts import key_of, show_table
from imagen.champion.retrain import Decided, RetrainPolicy, decide, record
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
    """Decide, and if it is worth it train, evaluate and promote. NAME/NUMBER comes back, or nothing.

    Args:
        dataset: the dataset's name
        config: a configuration's .yaml file, or a preset: tiny, small, imagen-2b
        version: of the dataset; the newest if not given
        lake: folder or URL of the lake
        name: of the model; the configuration's if not given
        minutes: for which each stage is trained, instead of what the configuration says
        processes: on this machine, that train
        workers: of the engine, that evaluate
        policy: when a version is worth a training
    """
    opened, policy = Lake.open(lake), policy or RetrainPolicy()
    called = name or load_config(config).name
    decided = decide(opened, called, dataset, version, policy)
    record(opened, decided, policy)
    show(decided)
    if not decided.train:
        return None
    model = train(config, dataset, decided.version, lake, name, minutes, processes)
    evaluate(model, lake, workers=workers)
    promote(model, lake, workers)
    return model


def show(decided: Decided) -> None:
    """The decision, for whoever looks at the run."""
    show_table(
        key=key_of("retrain", decided.name, decided.dataset),
        table=[{"figure": name, "value": f"{value:.3f}"} for name, value in decided.figures.items()],
        description=f"{'Train' if decided.train else 'Do not train'} {decided.name} on {decided.dataset}@"
        f"{decided.version}: {decided.why}",
    )
