"""Who can keep an exact state? Word problems of groups, asked at lengths that no model was trained with.

After each element the model says the product of all so far (Merrill et al. 2024, arXiv 2404.08819). The models have one
width, one layer and as many parameters; parity with the same models is in the recording of notebook 07. Tasks:

    swaps   S3, but only its three exchanges of two occur: each is one reflection
    turns   Z3: turns by a third, which no single reflection is
    s3      S3, all six elements: turns and exchanges, and their order matters

The delta rule and self-modifying Titans are here twice: with steps up to 1, which at most erase what is stored under a
key, and as `-negative` with steps up to 2, which may reverse its sign (Grazzi et al. 2024, arXiv 2411.12537).

The protocol is that of protocol.py: each model has the rate that its own search found on the task, and as many steps
as the others, three seeds. Each run says whether its loss had settled by then.

A part, one model of one task from one seed, is kept as soon as it is done:

    nl-course record state-tracking                                everything that is missing, the searches first
    python -m nl_course.record.state_tracking swaps titans 0       one part
"""

from pathlib import Path
from typing import Any

from nl_course.errors import check_choice
from nl_course.record import parts
from nl_course.record.protocol import Comparison, Trial
from nl_course.record.recipe import Part, make_part, selected
from nl_course.tasks.formal import FormalTask, formal_accuracy, group
from nl_course.training import TrainingConfig

UNITS = (
    "`by_place` the share of places with the right product, the mean of the seeds, and `whole` the share "
    "of strings without a mistake; `by_place_seeds` and `whole_seeds` each seed's; `chance` of a place. Lengths "
    "from `low` to `high`; the first row is of the lengths trained with"
)


class StateTracking(Comparison):
    """Word problems of groups. A part is (task, model, seed)."""

    name = "state-tracking"

    def trial(self, rate: float, seed: int, task: str, name: str) -> Trial:
        """A model of a task, taught at a rate from a seed."""
        settings = self.config["training"]
        data = task_of(self.config, task, settings["batch_size"], seed)
        training = TrainingConfig(**settings, length=data.length, learning_rate=rate, seed=seed)
        return Trial(shape_of(self.config, task, name), training, data, taught=self.config["tasks"][task])

    def identity(self, task: str, name: str, seed: int) -> dict[str, Any]:
        """The training, what is asked, and the device."""
        asked = selected(self.config, "curve_every", "asked_lengths", "asked_rows", "asked_steps")
        return {**self.reported(task, name, seed).identity(), **asked, "device": self.device}

    def make(self, folder: Path, task: str, name: str, seed: int) -> Part:
        """Trains a model on one group and asks it at longer lengths."""
        config, shape = self.config, shape_of(self.config, task, name)
        made = self.provenance("commit", "recorded")
        model, run = self.trained(folder, task, name, seed)
        questions = task_of(config, task, config["asked_rows"])
        lengths = [questions.lengths, *((length, length) for length in config["asked_lengths"])]
        rows = []
        for counts in formal_accuracy(model, questions, lengths, steps=config["asked_steps"]):
            rows.append(
                {
                    "low": counts.low,
                    "high": counts.high,
                    "strings": counts.strings,
                    "by_place": round(counts.by_place, 4),
                    "whole": counts.accuracy,
                }
            )
        seconds = round(run.metrics[-1]["seconds"], 1)
        print(f"{task}, {name} from seed {seed}: {seconds} s, {[row['by_place'] for row in rows]}", flush=True)
        return {**parts.described(shape, model, run, config["curve_every"], made), "seed": seed, "asked": rows}

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing; writes `runs/state-tracking.json`."""
        keys = []
        for seed in self.config["seeds"]:  # first seeds first
            for task in self.config["tasks"]:
                keys += [(task, name, seed) for name in self.config["models"]]
        parts_made = self.searched_and_made(keys)
        tasks = {}
        for task, about in self.config["tasks"].items():
            models = {}
            for name in self.config["models"]:
                made = [parts_made[task, name, seed] for seed in self.config["seeds"]]
                models[name] = {
                    **selected(made[0], "memory", "options", "path", "hidden", "parameters"),
                    "search": self.search(task, name),
                    "asked": pooled([part["asked"] for part in made]),
                    "seeds": [selected(part, *parts.OF_A_RUN) for part in made],
                }
            chance = round(1 / len(group(about["group"]).elements), 4)
            tasks[task] = {**about, "chance": chance, "models": models}
        return [self.recording.write(assets / "runs" / "state-tracking.json", {"units": UNITS, "tasks": tasks})]


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `runs/state-tracking.json`."""
    return StateTracking(device, quick, assets).run(assets)


def pooled(seeds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The same rows of every seed as one: their means, and each seed's own."""
    together = []
    for rows in zip(*seeds, strict=True):
        row = selected(rows[0], "low", "high", "strings")
        for what in ("by_place", "whole"):
            values = [one[what] for one in rows]
            row |= {what: round(sum(values) / len(values), 4), f"{what}_seeds": values}
        together.append(row)
    return together


def task_of(config: dict[str, Any], task: str, rows: int, seed: int = 0) -> FormalTask:
    """The task called `task`, with so many strings per step."""
    about = config["tasks"][check_choice("task", task, config["tasks"])]
    return FormalTask(about["group"], tuple(about["lengths"]), tuple(about["letters"]), rows, seed)


def shape_of(config: dict[str, Any], task: str, name: str) -> parts.Shape:
    """The model called `name`, with the vocabulary of the task."""
    spec = config["models"][check_choice("model", name, config["models"])]
    return parts.sized({**config, "vocab": task_of(config, task, 1).vocab}, name, spec)


if __name__ == "__main__":
    make_part(StateTracking)
