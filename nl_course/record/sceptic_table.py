"""The sceptic's lab as it was recorded: what a model was worth, and what a switch changed, seed by seed.

    quality("recall", "titans")                       # share right: mean, interval, by seed
    change("recall", "titans", "8 steps")             # "-0.27 [-0.33, -0.21] WORSE"

Recall is a share of right answers, text a loss in nats per byte. `asked_with` and `trained_with` name switches of
`runs/sceptic.json`, such as "sign flipped".
"""

import json
from functools import cache

from nl_course.files import asset
from nl_course.record.seeds import difference, verdict

USUAL = "as trained"
WORSE = {"recall": "lower", "text": "higher"}  # by task


@cache
def recorded_rows() -> dict[tuple[str, str, str, str], dict]:
    """(task, model, trained with, asked with) -> its row of the recording."""
    rows = json.loads(asset("runs/sceptic.json").read_text("utf-8"))["rows"]
    return {(row["task"], row["model"], row["trained_with"], row["asked_with"]): row for row in rows}


def quality(task: str, model: str, asked_with: str = USUAL, trained_with: str = USUAL) -> dict | None:
    """A model's recall or text loss over its seeds; None for what was not recorded."""
    row = recorded_rows().get((task, model, trained_with, asked_with))
    if row is None:
        return None
    return row["recall" if task == "recall" else "loss"]


def change(task: str, model: str, asked_with: str, trained_with: str = USUAL) -> str:
    """What a switch changed beside the model as trained, in words: worse is lower on recall and higher on text."""
    after, before = quality(task, model, asked_with, trained_with), quality(task, model)
    if after is None or before is None:
        return "not there"
    if after["mean"] is None:
        return "an inner loop ran away"
    found = difference(after["by_seed"], before["by_seed"])
    if "low" not in found:
        return f"{found['mean']:+.2f} (one seed)"
    moved = verdict(found)
    word = "no change that the seeds tell"
    if moved != "not told apart":
        word = "WORSE" if moved == WORSE[task] else "BETTER"
    return f"{found['mean']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}] {word}"
