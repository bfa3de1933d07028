"""HOPE beside Titans and a transformer, equal in size: text, recall, and parity beyond the lengths trained with.

HOPE is self-modifying Titans and then a continuum memory system (arXiv 2512.24695, section 8). The models of a task
have one width and as many layers; the MLPs, or HOPE's levels, are made as wide as it takes for all to have as many
parameters. Then the trained HOPE is asked again with the memories that make its keys, values, steps and retention held
still, one at a time: what each one's moving is worth to a model that was trained with all of them moving. Last, whether
later facts need fewer writes than earlier ones (hope_measures.py).

HOPE's levels learn from the next token. In recall and parity the answers do not stand in the text and the next token is
chance, so there the levels never move; in text they do.

The protocol is that of protocol.py: each model at the rate that its own search found on the task, as many steps for
all, three seeds. Each run says whether its loss had settled by then.

A part, one model of one task from one seed, is kept as soon as it is done, so that a recording that was cut goes on:

    nl-course record hope                          everything that is missing, the searches first
    python -m nl_course.record.hope parity hope 0  one part
"""

from pathlib import Path
from typing import Any

from nl_course.errors import check_choice
from nl_course.nested import NestedConfig
from nl_course.record import parts
from nl_course.record.hope_measures import FROZEN, MEASURES
from nl_course.record.protocol import Comparison, Trial
from nl_course.record.provenance import read_config
from nl_course.record.recipe import Part, make_part, selected
from nl_course.record.texts import recording_library
from nl_course.tasks.formal import FormalTask
from nl_course.tasks.text import batch
from nl_course.training import Data, TrainingConfig
from nl_course.training.checkpoint import load_model, save_model

UNITS = (
    "text: nats per byte by place in the text; under `frozen` what holding still adds. recall: right "
    "answers by pairs in a row. parity: `accuracy` the share of strings without a mistake, `by_place` of places "
    "(0.5 is chance). Under `frozen` the same with those memories held still. later_facts: see hope_measures.py"
)
# What of a task's config decides the data that its models are taught.
TAUGHT = ("kind", "lengths", "pairs", "vocab", "split")


class Hope(Comparison):
    """HOPE beside Titans and a transformer. A part is (task, model, seed)."""

    name = "hope"

    @classmethod
    def settings(cls, device: str = "cpu", quick: bool = False) -> dict[str, Any]:
        """The recording's config, the same for every device; the quick one lasts seconds."""
        return settings(quick)

    def shape_of(self, task: str, name: str) -> parts.Shape:
        """The model called `name`, with the sizes of the task."""
        about = self.config["tasks"][check_choice("task", task, self.config["tasks"])]
        return parts.sized(about, name, about["models"][check_choice("model", name, about["models"])])

    def rates(self, task: str, name: str) -> list[float]:
        """The rates that are tried on a task."""
        return self.config["tasks"][check_choice("task", task, self.config["tasks"])]["rates"]

    def trial(self, rate: float, seed: int, task: str, name: str) -> Trial:
        """A model of a task, taught at a rate from a seed."""
        shape, about = self.shape_of(task, name), self.config["tasks"][task]
        training = TrainingConfig(**about["training"], learning_rate=rate, seed=seed)
        taught = {key: about[key] for key in TAUGHT if key in about}
        return Trial(shape, training, data_of(about, training), taught)

    def identity(self, task: str, name: str, seed: int) -> dict[str, Any]:
        """The training, and all else that the config says of the task."""
        trial = self.reported(task, name, seed).identity()
        of_others = ("models", "seeds", "rates", "training")
        about = {key: value for key, value in self.config["tasks"][task].items() if key not in of_others}
        return {**trial, "asked": about}

    def model_path(self, task: str, name: str, seed: int) -> Path:
        """Where the trained model of a part is kept."""
        return self.folder / f"{task}-{name}-{seed}.safetensors"

    def make(self, folder: Path, task: str, name: str, seed: int) -> Part:
        """Trains a model of a task and measures it."""
        shape, about = self.shape_of(task, name), self.config["tasks"][task]
        model, run = self.trained(folder, task, name, seed)
        made = self.provenance("commit", "recorded")
        save_model(model, self.model_path(task, name, seed))
        model = load_model(self.model_path(task, name, seed), self.device)  # as shipped: weights in bf16
        levels = None
        if isinstance(shape, NestedConfig):
            levels = [level.chunk for level in shape.levels[0]]
        part = {
            **parts.described(shape, model, run, about["curve_every"], made),
            "levels": levels,
            "seed": seed,
            "state": [parts.state_after(model, length, self.device) for length in about["state_lengths"]],
            "found": MEASURES[about["kind"]](model, about),
        }
        size_and_time = f"{part['parameters']:,} parameters, {part['training_seconds']} s"
        print(f"{task}, {name} from seed {seed}: {size_and_time}, loss {part['settled']['loss']}", flush=True)
        return part

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing; writes `checkpoints/hope-*.safetensors` (HOPE's, first seed) and
        `runs/hope.json`."""
        keys = []
        for task, about in self.config["tasks"].items():
            for name in about["models"]:
                keys += [(task, name, seed) for seed in about["seeds"]]
        parts_made = self.searched_and_made(keys)
        written, tasks = [], {}
        for task, about in self.config["tasks"].items():
            models = {}
            for name in about["models"]:
                made = [parts_made[task, name, seed] for seed in about["seeds"]]
                models[name] = {
                    **selected(made[0], "memory", "options", "path", "levels", "hidden", "parameters", "state"),
                    "search": self.search(task, name),
                    "seeds": [selected(part, *parts.OF_A_RUN, "found") for part in made],
                }
            first_seed = about["seeds"][0]
            checkpoint = assets / "checkpoints" / f"hope-{task}.safetensors"
            model = load_model(self.model_path(task, "hope", first_seed))
            save_model(model, checkpoint, info={"trained_on": task, "seed": first_seed, **self.recording.about()})
            models["hope"]["checkpoint"] = checkpoint.name
            written.append(checkpoint)
            tasks[task] = models
        frozen = {name: list(memories) for name, memories in FROZEN.items()}
        results = {"units": UNITS, "frozen": frozen, "tasks": tasks}
        return [*written, self.recording.write(assets / "runs" / "hope.json", results)]


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `checkpoints/hope-*.safetensors` and `runs/hope.json`."""
    return Hope(device, quick, assets).run(assets)


def settings(quick: bool = False) -> dict[str, Any]:
    """The recording's config; the quick one lasts seconds. Its changes are those of each task."""
    config = read_config("hope")
    smaller = config.pop("quick")
    if quick:
        for task, changes in smaller.items():
            whole = config["tasks"][task]
            training = {**whole["training"], **changes["training"]}
            config["tasks"][task] = {**whole, **changes, "training": training}
    return config


def data_of(about: dict[str, Any], training: TrainingConfig) -> Data:
    """step -> (inputs, targets) of a task."""
    if about["kind"] == "parity":
        return FormalTask("parity", tuple(about["lengths"]), rows=training.batch_size, seed=training.seed)
    if about["kind"] == "text":
        stream = recording_library(about).stream("train")
        return lambda step: batch(stream, step, training.batch_size, training.length, training.seed)

    return parts.recall_rows(about["pairs"], about["vocab"], training)


if __name__ == "__main__":
    make_part(Hope)
