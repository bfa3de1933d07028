"""Runs side by side in one picture: the loss of each over its steps, its seconds or its operations."""

from collections.abc import Sequence

from nl_course.errors import check_choice
from nl_course.training.run_table import RunSummary
from nl_course.views.kit.charts import Chart, chart
from nl_course.views.training_board_drawing import STYLES, column

OVER = {"steps": "step", "seconds": "seconds of its steps", "operations": "operations, by the rule 6 N D"}


def run_curves(runs: Sequence[RunSummary], over: str = "steps") -> Chart:
    """A line a run in its memory's color and dash: the running mean of the loss, nats a token."""
    check_choice("over", over, OVER)
    lowest = min(runs, key=lambda run: run.loss)
    says = f"{len(runs)} runs; the lowest loss at the end, {lowest.loss:.2f}, is that of {lowest.name}."
    picture = chart(says, x=OVER[over], y="loss (nats a token)")
    for run in runs:
        steps, losses = column(run.metrics, "loss")
        lines = {line["step"]: line for line in run.metrics}
        if over == "seconds":
            x = [lines[step]["seconds"] for step in steps]
        else:
            x = steps if over == "steps" else [6.0 * run.parameters * lines[step]["tokens"] for step in steps]
        picture.line(x, losses, run.name, memory=STYLES.get(run.memory, run.memory))
    return picture
