"""Who can keep an exact state? Word problems of groups, asked at lengths that no model was trained with.

After each element the model says the product of all so far (Merrill et al. 2024, arXiv 2404.08819). The models have one
width, one layer and as many parameters; parity with the same models is in the recording of notebook 07. Tasks:

    swaps   S3, but only its three exchanges of two occur: each is one reflection
    turns   Z3: turns by a third, which no single reflection is
    s3      S3, all six elements: turns and exchanges, and their order matters

The delta rule and self-modifying Titans stand here twice: with steps up to 1, which at most wipe out what is stored
under a key, and as `-negative` with steps up to 2, which may turn it round (Grazzi et al. 2024, arXiv 2411.12537).

A part, one model of one task from one seed, is kept as soon as it is done:

    nl-course record state-tracking                                everything that is missing
    python -m nl_course.record.state_tracking swaps titans 0       one part
"""

import sys
from pathlib import Path

from nl_course.errors import check_choice
from nl_course.record import parts
from nl_course.record.provenance import Recording
from nl_course.record.sizes import settings
from nl_course.tasks.formal import FormalTask, formal_accuracy, group
from nl_course.training import TrainingConfig

NAME = "state-tracking"


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `runs/state-tracking.json`."""
    config = settings(NAME, device, quick)
    recording, folder = Recording(NAME, config, device), parts.parts_folder(NAME, assets if quick else None)
    tasks = {}
    for task, about in config["tasks"].items():
        models = {}
        for name in config["models"]:
            found = [part(config, task, name, seed, folder, device) for seed in config["seeds"]]
            models[name] = {
                **{key: found[0][key] for key in ("memory", "options", "hidden", "parameters")},
                "asked": pooled([one["asked"] for one in found]),
                "seeds": [{key: one[key] for key in ("seed", "training_seconds", "made", "curve")} for one in found],
            }
        tasks[task] = {**about, "chance": round(1 / len(group(about["group"]).elements), 4), "models": models}
    results = {
        "units": "`by_place` the share of places with the right product, the mean of the seeds, and `whole` the share "
        "of strings without a mistake; `by_place_seeds` and `whole_seeds` each seed's; `chance` of a place. Lengths "
        "from `low` to `high`; the first row is of the lengths trained with",
        "tasks": tasks,
    }
    return [recording.write(assets / "runs" / f"{NAME}.json", results)]


def pooled(seeds: list[list[dict]]) -> list[dict]:
    """The same rows of every seed as one: their means, and each seed's own."""
    found = []
    for rows in zip(*seeds, strict=True):
        row = {key: rows[0][key] for key in ("low", "high", "strings")}
        for what in ("by_place", "whole"):
            values = [one[what] for one in rows]
            row |= {what: round(sum(values) / len(values), 4), f"{what}_seeds": values}
        found.append(row)
    return found


def task_of(config: dict, task: str, rows: int, seed: int = 0) -> FormalTask:
    about = config["tasks"][check_choice("task", task, config["tasks"])]
    return FormalTask(about["group"], tuple(about["lengths"]), tuple(about["letters"]), rows, seed)


def shape_of(config: dict, task: str, name: str) -> parts.Shape:
    spec = config["models"][check_choice("model", name, config["models"])]
    return parts.sized({**config, "vocab": task_of(config, task, 1).vocab}, name, spec)


def part(config: dict, task: str, name: str, seed: int, folder: Path, device: str = "cpu") -> dict:
    """One model of one task from one seed, trained and asked, or what is kept of it."""
    shape, data = shape_of(config, task, name), task_of(config, task, config["training"]["batch_size"], seed)
    training = TrainingConfig(**config["training"], length=data.length, seed=seed)
    asked = {key: config[key] for key in ("training", "curve_every", "asked_lengths", "asked_rows", "asked_steps")}
    asked |= {"task": config["tasks"][task], "model": shape.to_dict(), "seed": seed, "device": device}

    def make() -> dict:
        made = Recording(NAME, config, device).about()
        model, done = parts.trained(shape, data, training, folder / parts.mark(asked), device)
        bins = [data.lengths, *((length, length) for length in config["asked_lengths"])]
        exam = task_of(config, task, config["asked_rows"])
        rows = [
            {"low": b.low, "high": b.high, "strings": b.strings, "by_place": round(b.by_place, 4), "whole": b.accuracy}
            for b in formal_accuracy(model, exam, bins, steps=config["asked_steps"])
        ]
        seconds = round(done.metrics[-1]["seconds"], 1)
        print(f"{task}, {name} from seed {seed}: {seconds} s, {[r['by_place'] for r in rows]}", flush=True)
        return {
            **parts.described(shape, model, done, config["curve_every"], made),
            "seed": seed,
            "asked": rows,
        }

    return parts.kept(folder / f"{task}-{name}-{seed}.json", asked, make)


if __name__ == "__main__":
    everything = settings(NAME)
    part(everything, sys.argv[1], sys.argv[2], int(sys.argv[3]), parts.parts_folder(NAME))
