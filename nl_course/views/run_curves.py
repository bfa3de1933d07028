"""Runs side by side in one picture: the loss of each over its steps, its seconds or its operations."""

from collections.abc import Sequence

from nl_course.errors import CourseError, check_choice
from nl_course.training.run_table import RunSummary
from nl_course.views.kit.charts import Chart, chart
from nl_course.views.training_board import STYLES, column

OVER = {"steps": "step", "seconds": "seconds of its steps", "operations": "operations, by the rule 6 N D"}


def run_curves(runs: Sequence[RunSummary], over: str = "steps") -> Chart:
    """One line per run, in its memory's color and dash: the running mean of the loss, in nats per token. If the
    runs' tokens differ it is in bits per byte. Raises CourseError for runs whose losses cannot be compared."""
    check_choice("over", over, OVER)
    runs = [run for run in runs if run.metrics]
    if not runs:
        raise CourseError("there is no run to draw: none of them has taken a step.")
    units = {run.bytes_per_token for run in runs}
    if len(units) > 1 and None in units:
        unknown = next(run for run in runs if run.bytes_per_token is None)
        raise CourseError(
            f"the loss of {unknown.name} cannot be compared with that of the others: nobody knows how many bytes of "
            f"text its tokens ({unknown.tokenizer}) stand for."
        )
    in_bits = len(units) > 1

    def shown(run: RunSummary, loss: float) -> float:
        """A run's loss in the unit of the picture."""
        return run.bits_per_byte(loss) if in_bits else loss

    lowest = min(runs, key=lambda run: shown(run, run.loss))
    loss = shown(lowest, lowest.loss)
    says = f"{len(runs)} runs; the lowest loss at the end, {loss:.2f}, is that of {lowest.name}."
    picture = chart(says, x=OVER[over], y=f"loss ({'bits per byte' if in_bits else 'nats per token'})")
    for run in runs:
        steps, losses = column(run.metrics, "loss")
        losses = [shown(run, loss) for loss in losses]
        lines = {line["step"]: line for line in run.metrics}
        if over == "seconds":
            x = [lines[step]["seconds"] for step in steps]
        else:
            x = steps if over == "steps" else [6.0 * run.parameters * lines[step]["tokens"] for step in steps]
        picture.line(x, losses, run.name, memory=STYLES.get(run.memory, run.memory))
    return picture
