"""The comparison of all stages as pictures: each takes a recording, says in one sentence what came out, and how sure.

    run = json.loads(asset("runs/long-text.json").read_text())
    loss_by_position(run)                                   runs/long-text.json
    state_tracking(run, "swaps")                            runs/state-tracking.json, or "parity" of runs/hope.json
    optimizers(run)                                         runs/optimizers.json
    corpora(run)                                            runs/corpora.json

Pure: a dict in, a chart out (`.figure` a plotly figure, `.says` its sentence). Sentences are made from the numbers, so
that a recording made again says what it says then.
"""

from collections.abc import Iterable

from nl_course.errors import CourseError, check_choice
from nl_course.views.kit import theme
from nl_course.views.kit.charts import Chart, chart
from nl_course.views.optimizers import LOOKS as OPTIMISERS

# A model's name -> the memory whose style it has, its marker where that is another, and its name in words.
MODELS = {
    "attention": ("attention", None, "attention"),
    "window": ("window", None, "sliding window"),
    "linear": ("linear", None, "linear attention"),
    "delta": ("delta", None, "delta rule (steps to 1)"),
    "delta-negative": ("delta", "diamond", "delta rule (steps to 2)"),
    "gated-delta": ("gated-delta", None, "Gated DeltaNet"),
    "kda": ("kda", None, "Kimi Delta Attention"),
    "ttt-linear": ("ttt-linear", None, "TTT-Linear"),
    "ttt-mlp": ("ttt-mlp", None, "TTT-MLP"),
    "titans": ("titans", None, "LMM (Titans)"),
    "mac": ("mac", None, "MAC"),
    "mag": ("mag", None, "MAG"),
    "mal": ("mal", None, "MAL"),
    "self-modifying": ("hope", "square", "self-modifying"),
    "self-modifying-negative": ("hope", "diamond", "self-modifying (steps to 2)"),
    "hope": ("hope", None, "HOPE"),
    "ttt-e2e": ("ttt-e2e", None, "TTT-E2E"),
}


def draw(picture: Chart, x: list, y: list, model: str, **more) -> None:
    """A model's line and markers; a name that is not known here is drawn in gray."""
    memory, symbol, words = MODELS.get(model, ("", None, model))
    picture.points(x, y, words, memory=memory, symbol=symbol, joined=True, **more)


def named(model: str) -> str:
    """A model's name in words."""
    return MODELS.get(model, ("", None, model))[2]


def listed(words: Iterable[str]) -> str:
    """a, b and c."""
    *most, last = list(words)
    return f"{', '.join(most)} and {last}" if most else last


def needs(run: dict, key: str, recording: str) -> dict:
    """What a recording holds under `key`. Raises CourseError where it holds nothing."""
    if key not in run:
        raise CourseError(f"this picture needs runs/{recording}.json, whose results hold {key!r}; these have none.")
    return run[key]


# -- the loss by position ----------------------------------------------------------------------------------------------
def loss_by_position(run: dict, against: bool = True) -> Chart:
    """runs/long-text.json: by the place in the context, each model's loss minus full attention's on the same text,
    or the loss itself (`against` False: then what the text is at those places is in it too)."""
    models, trained = needs(run, "models", "long-text"), run["trained_length"]
    what = "less_attention" if against else "loss"
    last = {name: model[what][-1] for name, model in models.items()}
    first, to = last["attention"]["from"], last["attention"]["to"]
    seeds = len(models["attention"]["seeds"])
    spread = "resampling the windows" if seeds == 1 else "another seed"
    if against:
        sure = [n for n, row in last.items() if row["high"] < 0]
        worse = [n for n, row in last.items() if row["low"] > 0]
        found = f"lower loss than full attention: {listed(map(named, sure)) if sure else 'none'}; "
        found += f"higher: {len(worse)} of {len(models) - 1}, beyond what {spread} moves"
    else:
        ends = {name: row["mean"] for name, row in last.items()}
        low, high = min(ends, key=ends.get), max(ends, key=ends.get)
        found = f"the lowest loss is {named(low)}'s ({ends[low]:.3f}), the highest {named(high)}'s ({ends[high]:.3f})"
    says = f"Trained on {trained:,} bytes at a time and read on to {to:,}: at places {first:,} to {to:,}, {found}. " + (
        "One seed each: no ranking." if seeds == 1 else f"Means and Student's 95 % intervals of {seeds} seeds."
    )
    y = "nats per byte minus full attention" if against else "nats per byte"
    picture = chart(says, x="bytes read before", y=y, log="x", height=420)
    for name, model in models.items():
        rows = model[what]
        high = [row["high"] - row["mean"] for row in rows]
        low = [row["mean"] - row["low"] for row in rows]
        error = dict(type="data", array=high, arrayminus=low, thickness=1, width=2)
        draw(
            picture, [(row["from"] + row["to"]) / 2 for row in rows], [row["mean"] for row in rows], name, error_y=error
        )
    return picture.place(trained)


# -- state tracking ----------------------------------------------------------------------------------------------------
def tracked(run: dict, task: str) -> dict[str, list[dict]]:
    """{model: rows with low, high, by_place and by_place_seeds} of a task; reads parity of runs/hope.json too."""
    tasks = needs(run, "tasks", "state-tracking")
    about = tasks[check_choice("task", task, tasks)]
    if "models" in about:
        return {name: model["asked"] for name, model in about["models"].items()}
    found = {}
    for name, model in about.items():
        asked = []
        for rows in zip(*(seed["found"][task] for seed in model["seeds"]), strict=True):  # one length, a row per seed
            shares = [row["by_place"] for row in rows]
            span = {"low": rows[0]["low"], "high": rows[0]["high"]}
            asked.append({**span, "by_place": sum(shares) / len(shares), "by_place_seeds": shares})
        found["self-modifying" if name == "hope" else name] = asked
    return found


WORDS = {
    "swaps": "the product of exchanges of two (S3)",
    "turns": "the sum of turns by a third (Z3)",
    "s3": "the product of all six elements of S3",
    "parity": "whether the ones so far are even in number",
}
SOLVED = 0.99  # of places, on the mean of the seeds


def state_tracking(run: dict, task: str = "swaps") -> Chart:
    """runs/state-tracking.json: the share of right places of one task at the lengths trained with and beyond; bars from
    the worst to the best seed. `task="parity"` with runs/hope.json, whose parity is of the same models."""
    models = tracked(run, task)
    chance = run["tasks"][task].get("chance", 0.5)
    rows = next(iter(models.values()))
    short, longest, seeds = rows[0]["high"], rows[-1]["high"], len(rows[0]["by_place_seeds"])
    solved = [named(n) for n, r in models.items() if r[0]["by_place"] >= SOLVED]
    beyond = [named(n) for n, r in models.items() if r[-1]["by_place"] >= SOLVED]
    says = (
        f"Asked {WORDS.get(task, task)}: at up to {short} symbols, the lengths trained with, "
        f"{listed(solved) if solved else 'no model'} had {SOLVED:.0%} of places right; at {longest}, "
        f"{listed(beyond) if beyond else 'none'}. Means of {seeds} seeds; chance is {chance:.0%}."
    )
    picture = chart(says, x="symbols in a string", y="share of right places", height=400)
    for name, rows in models.items():
        y = [row["by_place"] for row in rows]
        high = [max(row["by_place_seeds"]) - row["by_place"] for row in rows]
        low = [row["by_place"] - min(row["by_place_seeds"]) for row in rows]
        error = dict(type="data", array=high, arrayminus=low, thickness=1, width=3)
        draw(picture, [row["high"] for row in rows], y, name, error_y=error)
    picture.level(chance, "chance")
    picture.figure.update_layout(yaxis_range=[0, 1.05])
    return picture


# -- optimizers --------------------------------------------------------------------------------------------------------
def optimizers(run: dict) -> Chart:
    """runs/optimizers.json: the held-out loss as training goes on, the mean of the seeds, each at its best rate."""
    arms = needs(run, "arms", "optimizers")
    whole = {name: arm for name, arm in arms.items() if arm["loss"] is not None}
    order = sorted(whole, key=lambda name: whole[name]["loss"])
    steps, seeds = whole[order[0]]["seeds"][0]["held_out"][-1]["step"], len(whole[order[0]]["seeds"])
    found = [f"{name} {arm_says(whole[name])}" for name in order]
    edges = [name for name in order if whole[name]["at_edge"]]
    says = (
        f"After {steps:,} equal steps, in nats per byte of held-out text ({seeds} seeds, ± their standard deviation, "
        f"in brackets a step's time in AdamW's): {', '.join(found)}."
        + (f" The best rate tried was the least or largest for {listed(edges)}." if edges else "")
    )
    picture = chart(says, x="steps", y="held-out loss, nats per byte", height=400)
    for name in order:
        arm, look = whole[name], OPTIMISERS["adam" if whole[name]["optimizer"] == "adamw" else whole[name]["optimizer"]]
        means = []
        for rows in zip(*(seed["held_out"] for seed in arm["seeds"]), strict=True):  # one step, a row per seed
            means.append(sum(row["loss"] for row in rows) / len(rows))
        x = [row["step"] for row in arm["seeds"][0]["held_out"]]
        weak = bool(arm["options"].get("strength"))
        picture.figure.add_scatter(
            x=x,
            y=means,
            name=f"{name}, rate {arm['rate']:g}",
            mode="lines+markers",
            line=dict(color=look.color, dash="dot" if weak else look.dash, width=2),
            marker=dict(color=look.color, symbol=f"{look.marker}-open" if weak else look.marker, size=8),
        )
    return picture


def arm_says(arm: dict) -> str:
    """An arm's loss, its spread over seeds, and its factor beside AdamW."""
    spread = "" if arm["spread"] is None else f" ± {arm['spread']:.3f}"
    return f"{arm['loss']:.3f}{spread} ({arm['times_adamw']:.1f})"


# -- corpora in a row --------------------------------------------------------------------------------------------------
ARMS = ("outer", "hope", "titans", "ttt-e2e")  # a style each, in the order of the recording
_SHOWN = {"forgetting": "forgotten of the earlier ones", "forward": "carried over to those not yet read"}


def corpora(run: dict, what: str = "forgetting") -> Chart:
    """runs/corpora.json: what each arm forgets (or, `what="forward"`, carries over) for what it learns, one point a
    rate. The lower right is best for forgetting, the upper right for what is carried over."""
    check_choice("measure", what, _SHOWN)
    arms: dict[str, list[dict]] = {}
    for row in needs(run, "runs", "corpora"):
        arms.setdefault(row["arm"], []).append(row)
    best = {name: max(rows, key=lambda row: row["learnt"]) for name, rows in arms.items()}
    found = [f"{name} learned {row['learnt']:.3f} and {said(what, row[what])}" for name, row in best.items()]
    seeds = len(next(iter(best.values()))["by_seed"])
    says = (
        f"Read in a row: {', '.join(run['corpora'])}. At the rate at which it learns most, in nats per byte of "
        f"held-out text: {'; '.join(found)}. Means of {seeds} seed{'s' if seeds > 1 else ''}."
    )
    picture = chart(says, x="learned of a corpus, nats per byte", y=f"{_SHOWN[what]}, nats per byte", height=400)
    for (name, rows), style in zip(arms.items(), ARMS, strict=False):
        look = theme.style(style)
        error = dict(type="data", array=[row.get(f"{what}_spread", 0) for row in rows], thickness=1, width=3)
        picture.figure.add_scatter(
            x=[row["learnt"] for row in rows],
            y=[row[what] for row in rows],
            error_y=error,
            text=[f"rate {row['rate']:g}" for row in rows],
            name=name,
            mode="lines+markers",
            line=dict(color=look.color, dash=look.dash, width=2),
            marker=dict(color=look.color, symbol=look.marker, size=9),
        )
    return picture


def said(what: str, value: float) -> str:
    """What was forgotten or carried over, in words."""
    if what == "forgetting":
        return f"forgot {value:.3f}" if value >= 0 else f"kept on gaining {-value:.3f}"
    return f"carried over {value:.3f}" if value >= 0 else f"lost {-value:.3f} on those not yet read"
