"""How the training board draws: loss, speed, memory and gradient norms by step, and the sentence under them."""

from bisect import bisect_right
from itertools import accumulate

from nl_course.scaling.formats import readable_bytes
from nl_course.views.kit import theme

MEAN_OVER = 20  # steps of the loss's running mean
STYLES = {  # a choice of the board -> its style's name, where that is another
    "latent-attention": "latent-attention",
    "titans": "titans",
    "self-modifying": "hope",
    "hope-attention": "hope",
}
PANELS = {  # what is drawn: axis number, where it stands, the axis's words
    "loss": (1, (0.0, 0.45), (0.57, 0.97), "loss (nats a token)"),
    "tokens_per_second": (2, (0.57, 1.0), (0.57, 0.97), "tokens a second"),
    "grad_norm": (3, (0.0, 0.45), (0.0, 0.4), "norm of all gradients"),
    "memory_bytes": (4, (0.57, 1.0), (0.0, 0.4), "memory held (GB)"),
}


def style(memory: str) -> theme.Style:
    return theme.style(STYLES.get(memory, memory))


def smooth(steps: list[int], values: list[float], over: int = MEAN_OVER) -> list[float]:
    """The mean of each value and of those of the `over` - 1 steps before it, also where not every step was kept."""
    sums = [0.0, *accumulate(values)]
    firsts = [bisect_right(steps, step - over) for step in steps]
    return [(sums[i] - sums[first]) / (i - first) for i, first in enumerate(firsts, 1)]


def column(metrics: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one measurement, where it was made; bytes in GB, losses as a running mean."""
    lines = [line for line in metrics if name in line]
    values = [line[name] / (1e9 if name == "memory_bytes" else 1) for line in lines]
    steps = [line["step"] for line in lines]
    return steps, smooth(steps, values) if name == "loss" else values


def draw(arrays: dict, figure) -> None:
    """Four panels over the steps: earlier runs thin in their memory's color and dash, this one thick, estimates
    dotted."""
    plan, metrics = arrays["plan"], arrays["metrics"]
    for run in arrays["earlier"]:
        _lines(figure, run.metrics, run.name, style(run.memory), width=1.2, opacity=0.75)
    _lines(figure, metrics, f"this run: {plan.memory}", style(plan.memory), width=3.2, opacity=1.0)
    looks = [line for line in metrics if "held_out_loss" in line]
    figure.add_scatter(
        x=[line["step"] for line in looks], y=[line["held_out_loss"] for line in looks], mode="markers",
        name="this run, held out", cliponaxis=False,
        marker=dict(color=theme.style("outer").color, symbol="diamond", size=9),
    )  # fmt: skip
    _arrange(arrays, figure)


def _lines(figure, metrics, name: str, look: theme.Style, width: float, opacity: float) -> None:
    for what, (axis, *_) in PANELS.items():
        steps, values = column(metrics, what)
        number = "" if axis == 1 else str(axis)
        figure.add_scatter(
            x=steps, y=values, name=name, mode="lines", legendgroup=name, showlegend=axis == 1, opacity=opacity,
            line=dict(color=look.color, dash=look.dash, width=width), xaxis=f"x{number}", yaxis=f"y{number}",
        )  # fmt: skip


def _arrange(arrays: dict, figure) -> None:
    layout, shapes, words = {}, [], []
    for what, (axis, across, up, title) in PANELS.items():
        number = "" if axis == 1 else str(axis)
        titled = dict(title="steps") if axis in (3, 4) else dict(showticklabels=axis == 1 or None)
        layout[f"xaxis{number}"] = dict(domain=across, anchor=f"y{number}", range=[0, arrays["plan"].steps], **titled)
        layout[f"yaxis{number}"] = dict(domain=up, anchor=f"x{number}", title=title, rangemode="tozero")
        level = expected(arrays, what)
        if level is not None:
            line = dict(color=theme.style("outer").color, dash="dot", width=2)
            place = dict(xref=f"x{number} domain", yref=f"y{number}", y0=level, y1=level, x0=0, x1=1)
            shapes.append(dict(type="line", line=line, **place))
            words.append(
                dict(text="estimated", x=1, y=level, xref=f"x{number} domain", yref=f"y{number}", xanchor="right",
                     yanchor="bottom", showarrow=False)
            )  # fmt: skip
    figure.update_layout(
        **layout, shapes=shapes, annotations=words, margin=dict(l=64, r=16, t=84, b=46),
        legend=dict(x=1, y=1.02, xanchor="right", yanchor="bottom", orientation="h", font=dict(size=12)),
    )  # fmt: skip


def expected(arrays: dict, what: str) -> float | None:
    """What was estimated for a panel, in its unit; None where nothing was."""
    said = arrays["estimate"]
    if said is None:
        return None
    if what == "tokens_per_second":
        return said.tokens_per_second
    if what == "memory_bytes" and arrays["held_before"]:
        return (arrays["held_before"] + said.memory[1]) / 1e9
    return None


def read_out(arrays: dict) -> str:
    """What the board says, in sentences."""
    plan, metrics, said = arrays["plan"], arrays["metrics"], arrays["estimate"]
    tokens = plan.steps * plan.batch_size * plan.length
    words = [
        f"{plan.memory}, {plan.size}, on {plan.task}, seed {plan.seed}: {arrays['parameters']:,} parameters, "
        f"{plan.steps:,} steps, {tokens:,} tokens, "
        f"{6.0 * arrays['parameters'] * tokens:.1e} operations by the rule 6 N D"
    ]
    if said is not None:
        least, most = said.seconds
        words.append(f"estimated {least:.0f} to {most:.0f} s and {readable_bytes(said.memory[1])} beyond what is held")
    if metrics:
        last, (_, losses) = metrics[-1], column(metrics, "loss")
        words.append(
            f"{arrays['status']} at step {last['step']:,} after {arrays['seconds']:.0f} s: loss {losses[-1]:.2f}, "
            f"{losses[0]:.2f} at the start, gradient norm {last['grad_norm']:.2f}, "
            f"{last['tokens_per_second']:,.0f} tokens a second"
        )
    if arrays["off"]:
        words.append(f"the middle of the estimate missed the time by a factor of {arrays['off']:.2f}")
    if arrays["earlier"]:
        best = min(arrays["earlier"], key=lambda run: run.loss)
        words.append(f"the lowest of {len(arrays['earlier'])} earlier runs is {best.name}, loss {best.loss:.2f}")
    return ". ".join(word[0].upper() + word[1:] for word in words) + "."
