"""What models are and what they are worth, as a person reads it in a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from flows.terminal.data_tables import console, duration, plain
from flows.terminal.options import pluralize

if TYPE_CHECKING:
    from imagen.champion.promote import Candidate, Judged
    from imagen.evaluate.compare import Difference
    from imagen.evaluate.evaluation import Evaluation
    from imagen.evaluate.leaderboard import Board
    from imagen.evaluate.sweep import Point
    from imagen.models.table import TrainedModel
    from imagen.train.setup import Training
    from imagen.train.train import TrainingResult

COLOURS = {"promote": "green", "reject": "red", "ask": "yellow", "champion": "green", "retired": "dim"}
FIGURES = 2  # of a model, in the list of all
COLUMNS = 5  # metrics of a leaderboard, that a terminal has room for


def show_trained(ended: "TrainingResult", training: "Training") -> None:
    for stage, came in ended.stages.items():
        side, skipped = training.cascade.stages[stage].resolution, came["skipped"]
        skips = f", {skipped:.0f} skipped for a loss that was not finite" if skipped else ""
        console.print(
            f"{side} px: {came['steps']:,.0f} steps, loss {came['loss']:.4f}{skips}; {came['seconds']:.0f} s now."
        )
    if ended.trained is None:
        console.print(f"Its other stages are not trained yet. What is there: {ended.url}", soft_wrap=True)
        return
    model = ended.trained
    if not ended.stages:
        console.print(f"Nothing to do: [bold]{model.reference}[/] was made of this.")
        return
    console.print(
        f"[bold]{model.reference}[/] is trained on {model.dataset}@{model.version}; curves and grids: {ended.url}",
        soft_wrap=True,
    )


def show_made(made: list[dict[str, Any]]) -> None:
    table = Table(*made[0], box=None)
    for one in made:
        table.add_row(*(escape(str(value)) for value in one.values()))
    console.print(table)


def show_evals(evaluation: "Evaluation", rows: list[dict[str, Any]]) -> None:
    """Every metric over all prompts, and those of single pictures for each category."""
    asked = evaluation.asking
    console.print(
        f"[bold]{evaluation.model}[/] asked {pluralize(len(asked.suite.prompts), 'prompt')} of {asked.suite.name}, "
        f"seed {asked.seed}, beside {evaluation.dataset}@{evaluation.version}. Intervals cover 95 %."
    )
    slices = list(dict.fromkeys(row["slice"] for row in rows))
    table = Table("metric", "slice", "value", "interval", "pictures", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in sorted(rows, key=lambda row: slices.index(row["slice"])):
        interval = f"{row['low']:.3g} to {row['high']:.3g}"
        table.add_row(row["metric"], row["slice"], f"{row['value']:.3g}", interval, f"{row['n']:,}")
    console.print(table)


def show_comparison(before: "Evaluation", after: "Evaluation", differences: Sequence["Difference"]) -> None:
    """Differences that are not by chance are coloured."""
    from imagen.evaluate.compare import better

    asked = after.asking
    console.print(
        f"[bold]{before.model}[/] → [bold]{after.model}[/], {pluralize(len(asked.suite.prompts), 'prompt')} of "
        f"{asked.suite.name}, seed {asked.seed}, beside {after.dataset}@{after.version}. Intervals cover 95 %."
    )
    table = table_of("metric", "slice", before.model, after.model, "difference", "interval", "won", "lost", "tied")
    slices = list(dict.fromkeys(one.slice for one in differences))
    for one in sorted(differences, key=lambda one: slices.index(one.slice)):
        figure, way = one.figure, better(one.metric)
        low, high = sorted((way * figure.low, way * figure.high))
        colour = "green" if low > 0 else "red" if high < 0 else "default"
        counts = (one.wins, one.losses, one.ties)
        table.add_row(
            one.metric,
            plain(one.slice),
            f"{one.before:.3g}",
            f"{one.after:.3g}",
            f"[{colour}]{figure.value:+.3g}[/]",
            f"{figure.low:+.3g} to {figure.high:+.3g}",
            *(f"{count:,}" if any(counts) else "" for count in counts),
        )
    console.print(table)


def show_boards(boards: Sequence["Board"]) -> None:
    if not boards:
        console.print("No model is evaluated yet: imagen evaluate NAME/NUMBER")
    for board in boards:
        console.print(
            f"[bold]{plain(board.suite)}[/], {pluralize(board.n, 'picture')} a prompt, seed {board.seed}, beside "
            f"{board.dataset}@{board.version}"
        )
        shown = list(dict.fromkeys((board.by, *board.metrics)))[:COLUMNS]
        table = table_of("model", *shown)
        for line in board.lines:
            changed = ", ".join(f"{name} {value}" for name, value in line.sampling.items())
            figures = (line.figures.get(metric) for metric in shown)
            said = (f"{row['value']:.3g}" if row else "" for row in figures)
            table.add_row(plain(f"{line.model} ({changed})" if changed else line.model), *said)
        console.print(table)
        if len(shown) < len(board.metrics):
            console.print(
                f"{len(board.metrics) - len(shown)} more metrics: --metric NAME, or all with --json", style="dim"
            )


def show_points(points: Sequence["Point"], axes: tuple[str, str]) -> None:
    names = list(dict.fromkeys(name for point in points for name in point.sampling))
    table = table_of(*names, axes[0], "interval", axes[1], "interval", "")
    for point in points:
        figures = [
            said
            for row in (point.score, point.distance)
            for said in (f"{row['value']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}")
        ]
        table.add_row(*(str(point.sampling.get(name, "")) for name in names), *figures, "chosen" * point.chosen)
    console.print(table)


def show_models(found: Sequence[tuple["TrainedModel", str, dict[str, dict[str, Any]]]], lake: str) -> None:
    if not found:
        console.print(f"{lake} has no model yet. Train one: imagen train tiny --dataset NAME --lake {lake}")
        return
    table = Table("model", "state", "made", "of", "steps", "time", "figures", box=None)
    for one, state, figures in found:
        steps = " + ".join(f"{stage['steps']:,.0f}" for stage in one.stages.values())
        time = duration(sum(stage["seconds"] for stage in one.stages.values()))
        said = ", ".join(f"{name} {row['value']:.3g}" for name, row in list(figures.items())[:FIGURES])
        words = f"[{COLOURS[state]}]{state}[/]" if state in COLOURS else state
        of = f"{one.dataset}@{one.version}"
        table.add_row(one.reference, words, f"{one.made:%Y-%m-%d %H:%M}", of, steps, time, said or "not evaluated")
    console.print(table)


def show_judged(asked: "Candidate", judged: "Judged") -> None:
    """The gate's reasons as a table, and what follows."""
    name, number = asked.trained.name, asked.trained.number
    against = f" against the champion {name}/{asked.champion}" if asked.champion else ""
    console.print(f"[bold]{asked.trained.reference}[/]{against}:")
    table = Table("metric", "slice", "asked", "found", "so", box=None)
    for reason in judged.verdict.reasons:
        colour = COLOURS[reason.answer]
        table.add_row(reason.metric, plain(reason.slice), reason.asked, reason.found, f"[{colour}]{reason.answer}[/]")
    console.print(table)
    decision, answer = judged.decision, judged.verdict.answer
    if decision.act == "promote":
        whatever = "" if answer == "promote" else f" (the gate said {answer})"
        console.print(f"[green]promoted[/]{whatever}: {name}/champion is {name}/{number}. Undo: imagen rollback {name}")
    elif decision.act == "reject":
        console.print(
            f"[red]rejected[/]: {name}/champion stays {name}/{decision.champion}"
            if decision.champion
            else "[red]rejected[/]"
        )
    else:
        console.print(
            f"[yellow]not certain: a person decides[/]. If you are sure: imagen approve {name}/{number} "
            f'--why "...", then imagen promote {name}/{number} again'
        )


def table_of(*names: str) -> Table:
    """Text first, then figures."""
    table = Table(*names, box=None)
    for column in table.columns[1:]:
        if column.header not in ("slice",):
            column.justify = "right"
    return table
