"""Print results about models in a terminal, as tables and sentences."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from flows.terminal.data_tables import console, duration, plain
from flows.terminal.options import pluralize

if TYPE_CHECKING:
    from imagen.champion.promote import Candidate, Promotion
    from imagen.evaluate.compare import Difference
    from imagen.evaluate.evaluation import Evaluation
    from imagen.evaluate.leaderboard import Board
    from imagen.evaluate.sweep import Point
    from imagen.models.table import TrainedModel
    from imagen.train.setup import Training
    from imagen.train.train import TrainingResult

COLOURS = {"promote": "green", "reject": "red", "ask": "yellow", "champion": "green", "retired": "dim"}
FIGURES = 2  # metrics of each model in the list of models
COLUMNS = 5  # metrics of a leaderboard that fit on a terminal


def show_trained(result: "TrainingResult", training: "Training") -> None:
    """Print steps and loss of each stage that was trained, and the model."""
    for stage, measures in result.stages.items():
        side, skipped = training.cascade.stages[stage].resolution, measures["skipped"]
        skips = f", {skipped:.0f} skipped because their loss was not finite" if skipped else ""
        console.print(
            f"Stage {stage + 1} ({side} px): {measures['steps']:,.0f} steps, loss {measures['loss']:.4f}{skips}, "
            f"{measures['seconds']:.0f} s in this run."
        )
    if result.trained is None:
        console.print(f"Other stages are not trained yet. Checkpoints and curves: {result.url}", soft_wrap=True)
        return
    model = result.trained
    if not result.stages:
        console.print(f"Nothing to do: [bold]{model.reference}[/] has this configuration and dataset version.")
        return
    console.print(
        f"[bold]{model.reference}[/] is trained on {model.dataset}@{model.version}. Loss curves, samples: {result.url}",
        soft_wrap=True,
    )


def show_made(settings: list[dict[str, Any]]) -> None:
    """Print the settings of each picture of a PNG."""
    table = Table(*settings[0], box=None)
    for picture in settings:
        table.add_row(*(escape(str(value)) for value in picture.values()))
    console.print(table)


def show_evals(evaluation: "Evaluation", rows: list[dict[str, Any]]) -> None:
    """Print each metric over all prompts, and metrics of single pictures for each category too."""
    console.print(f"[bold]{evaluation.model}[/], {_conditions(evaluation)}")
    slices = list(dict.fromkeys(row["slice"] for row in rows))
    table = Table("metric", "slice", "value", "interval", "pictures", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in sorted(rows, key=lambda row: slices.index(row["slice"])):
        interval = f"{row['low']:.3g} to {row['high']:.3g}"
        table.add_row(row["metric"], row["slice"], f"{row['value']:.3g}", interval, f"{row['n']:,}")
    console.print(table)


def show_comparison(before: "Evaluation", after: "Evaluation", differences: Sequence["Difference"]) -> None:
    """Print the differences between two models: green if significantly better, red if significantly worse."""
    from imagen.evaluate.compare import direction

    console.print(f"[bold]{before.model}[/] → [bold]{after.model}[/], {_conditions(after)}")
    table = table_of("metric", "slice", before.model, after.model, "difference", "interval", "won", "lost", "tied")
    slices = list(dict.fromkeys(difference.slice for difference in differences))
    for difference in sorted(differences, key=lambda difference: slices.index(difference.slice)):
        figure, sign = difference.figure, direction(difference.metric)  # a metric's sign: 1 if more is better, else -1
        low, high = sorted((sign * figure.low, sign * figure.high))
        colour = "default"
        if low > 0:
            colour = "green"
        elif high < 0:
            colour = "red"
        counts = (difference.wins, difference.losses, difference.ties)
        table.add_row(
            difference.metric,
            plain(difference.slice),
            f"{difference.before:.3g}",
            f"{difference.after:.3g}",
            f"[{colour}]{figure.value:+.3g}[/]",
            f"{figure.low:+.3g} to {figure.high:+.3g}",
            *(f"{count:,}" if any(counts) else "" for count in counts),
        )
    console.print(table)


def show_boards(boards: Sequence["Board"]) -> None:
    """Print a leaderboard for each suite, seed and reference dataset."""
    if not boards:
        console.print("No model is evaluated yet. Evaluate one: imagen evaluate NAME/NUMBER")
    for board in boards:
        console.print(
            f"[bold]{plain(board.suite)}[/], {pluralize(board.n, 'picture')} per prompt, seed {board.seed}, "
            f"reference {board.dataset}@{board.version}"
        )
        shown = list(dict.fromkeys((board.by, *board.metrics)))[:COLUMNS]
        table = table_of("model", *shown)
        for line in board.lines:
            changed = ", ".join(f"{name} {value}" for name, value in line.sampling.items())
            figures = (line.figures.get(metric) for metric in shown)
            values = (f"{row['value']:.3g}" if row else "" for row in figures)
            table.add_row(plain(f"{line.model} ({changed})" if changed else line.model), *values)
        console.print(table)
        if len(shown) < len(board.metrics):
            console.print(
                f"{len(board.metrics) - len(shown)} more metrics: show one with --metric NAME, all with --json",
                style="dim",
            )


def show_points(points: Sequence["Point"], axes: tuple[str, str]) -> None:
    """Print the points of a sweep: sampling settings, then both axes with their intervals."""
    names = list(dict.fromkeys(name for point in points for name in point.sampling))
    table = table_of(*names, axes[0], "interval", axes[1], "interval", "")
    for point in points:
        figures = []
        for row in (point.score, point.distance):
            figures += [f"{row['value']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}"]
        table.add_row(*(str(point.sampling.get(name, "")) for name in names), *figures, "chosen" * point.chosen)
    console.print(table)


def show_models(models: Sequence[tuple["TrainedModel", str, dict[str, dict[str, Any]]]], lake: str) -> None:
    """Print one line per model, from the model, its state and its newest figures by metric."""
    if not models:
        console.print(f"{lake} has no model yet. Train one: imagen train tiny --dataset NAME --lake {lake}")
        return
    table = Table("model", "state", "trained", "dataset", "steps", "time", "figures", box=None)
    for model, state, figures in models:
        steps = " + ".join(f"{stage['steps']:,.0f}" for stage in model.stages.values())
        time = duration(sum(stage["seconds"] for stage in model.stages.values()))
        values = ", ".join(f"{name} {row['value']:.3g}" for name, row in list(figures.items())[:FIGURES])
        table.add_row(
            model.reference,
            f"[{COLOURS[state]}]{state}[/]" if state in COLOURS else state,
            f"{model.made:%Y-%m-%d %H:%M}",
            f"{model.dataset}@{model.version}",
            steps,
            time,
            values or "not evaluated",
        )
    console.print(table)


def show_judged(candidate: "Candidate", judged: "Promotion") -> None:
    """Print the gate's reasons as a table, then the decision and the next step."""
    name, number = candidate.trained.name, candidate.trained.number
    against = f" against the champion {name}/{candidate.champion}" if candidate.champion else ""
    console.print(f"[bold]{candidate.trained.reference}[/]{against}:")
    table = Table("metric", "slice", "required", "measured", "answer", box=None)
    for reason in judged.verdict.reasons:
        colour = COLOURS[reason.answer]
        table.add_row(reason.metric, plain(reason.slice), reason.asked, reason.found, f"[{colour}]{reason.answer}[/]")
    console.print(table)
    decision, answer = judged.decision, judged.verdict.answer
    if decision.act == "promote":
        override = "" if answer == "promote" else f" (the gate's answer was {answer})"
        console.print(f"[green]promoted[/]{override}: {name}/champion is {name}/{number}. Undo: imagen rollback {name}")
    elif decision.act == "reject":
        console.print(
            f"[red]rejected[/]: {name}/champion stays {name}/{decision.champion}"
            if decision.champion
            else "[red]rejected[/]"
        )
    else:
        console.print(
            f"[yellow]undecided: a person must decide[/]. To promote it: imagen approve {name}/{number} "
            f'--why "...", then imagen promote {name}/{number} again'
        )


def _conditions(evaluation: "Evaluation") -> str:
    """Return the conditions under which figures were measured: prompts, seed and reference pictures."""
    generation = evaluation.generation
    return (
        f"{pluralize(len(generation.suite.prompts), 'prompt')} of {generation.suite.name}, seed {generation.seed}, "
        f"reference {evaluation.dataset}@{evaluation.version}. Intervals cover 95 %."
    )


def table_of(*names: str) -> Table:
    """Make a table whose columns are right-aligned, except the first and `slice`."""
    table = Table(*names, box=None)
    for column in table.columns[1:]:
        if column.header != "slice":
            column.justify = "right"
    return table
