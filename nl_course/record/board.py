"""The runs that stand beside notebook 10's live one: a few memories on each task, estimated first and then trained, by
the same plans and the same runner as the training board's. `USE_RECORDED = True` shows the first of them."""

import tempfile
from pathlib import Path

from nl_course.record.provenance import Recording, read_config
from nl_course.training.run_table import read_run
from nl_course.training.runner import Plan, Runner

KEPT = ("step", "loss", "grad_norm", "tokens", "seconds", "tokens_per_second", "memory_bytes", "held_out_loss")


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Writes `runs/board.json`: what was estimated, what was asked, and the metrics of every fifth step."""
    config = read_config("board")
    recording = Recording("board", config, device)
    runs = []
    for plan in plans(config, quick):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(one_run(plan, folder, device, config["every"]))
    return [recording.write(assets / "runs" / "board.json", {"runs": runs})]


def plans(config: dict, quick: bool = False) -> list[Plan]:
    """The plans that are recorded, the notebook's own first."""
    shared = config["plan"] | ({"steps": 5} if quick else {})
    chosen = []
    for task, memories in config["runs"].items():
        chosen += [Plan(**shared, memory=memory, task=task) for memory in memories]
    return chosen


def one_run(plan: Plan, folder: str, device: str, every: int) -> dict:
    """One plan: estimated from a few steps, then trained to its end."""
    runner = Runner(plan, folder, device)
    runner.measure_speed()
    before = runner.estimate().to_dict()
    if runner.step(plan.steps) != "done":
        raise RuntimeError(f"{plan.name}: {runner.error}")
    run = read_run(folder)
    metrics = []
    for line in run.metrics:
        if line["step"] % every == 0 or line["step"] == 1 or "held_out_loss" in line:
            metrics.append({name: _rounded(line[name]) for name in KEPT if name in line})
    about = {"asked": run.settings, "model": {"parameters": run.parameters, "config": plan.model.to_dict()}}
    return {"about": about, "before": before, "held_before": runner.held_before, "metrics": metrics}


def _rounded(value: float | int | str) -> float | int | str:
    return round(value, 4) if isinstance(value, float) else value
