"""The stage's models: one layer of each memory, taught to keep facts, kept at several steps of its training.

Small on purpose: one matrix of 16 x 16 per head can be drawn number by number. Every memory gets the same texts from
the same seed at the same rate; no rate was searched for, so this compares nothing. The models are there to be watched.

    nl-course record stage                             everything that is missing
"""

import json
from pathlib import Path
from typing import Any

from nl_course.errors import check_choice
from nl_course.files import write_atomically
from nl_course.model import LanguageModel
from nl_course.record import parts
from nl_course.record.needle import curriculum
from nl_course.record.recipe import Part, Recipe, selected
from nl_course.record.sizes import settings_replaced
from nl_course.record.stage.linear import learn_by_hand
from nl_course.record.stage.take import take
from nl_course.record.stage.text import place_fact
from nl_course.tasks.needle import NeedleTask
from nl_course.tasks.needle_scores import needle_accuracy
from nl_course.training.checkpoint import load_model, save_model

SHOWN = "titans"  # the memory of the recorded take, at every checkpoint
RECORDED = (SHOWN, "attention")  # all that the take holds
BESIDE = ("attention", "ttt-linear")  # memories that only answer: of them the last model is enough


def load_stage_model(path: str | Path) -> LanguageModel:
    """A model of the stage, ready to read."""
    return learn_by_hand(load_model(path).eval())


class Stage(Recipe):
    """A part is a memory's name."""

    name = "stage"

    @classmethod
    def settings(cls, device: str = "cpu", quick: bool = False) -> dict[str, Any]:
        """The recording's config, the same for every device; the quick one lasts seconds."""
        return settings_replaced(cls.name, quick)

    def identity(self, name: str) -> dict[str, Any]:
        """The model, its training, and at which steps it is kept."""
        shared = selected(self.config, "rate", "seed", "style", "stages", "training", "checkpoints", "recall")
        return {**shared, "curve_every": self.config["curve_every"], "model": self.shape_of(name).to_dict()}

    def shape_of(self, name: str) -> parts.Shape:
        """The model called `name`."""
        return parts.sized(self.config, name, self.config["models"][check_choice("model", name, self.config["models"])])

    def model_path(self, name: str, step: int) -> Path:
        """Where a memory's model after so many steps is kept; named by the part's identity too."""
        return self.folder / f"{name}-{parts.mark(self.identity(name))}-{step}.safetensors"

    def make(self, folder: Path, name: str) -> Part:
        """Trains one memory and keeps it on the way."""
        shape = self.shape_of(name)
        training, data = curriculum(self.config, self.config["rate"], self.config["seed"])

        def watch(model: LanguageModel, step: int) -> None:
            """Stores the model at the steps that are asked for."""
            if step in self.config["checkpoints"]:
                save_model(model, self.model_path(name, step))

        made = self.provenance("commit", "recorded")
        model, run = parts.trained(shape, data, training, folder, self.device, watch=watch, prepare=learn_by_hand)
        watch(model, training.steps)
        part = parts.described(shape, model, run, self.config["curve_every"], made)
        task = NeedleTask(self.config["recall"]["kind"], style=self.config["style"])
        recall = []
        for step in self.config["checkpoints"]:
            kept = load_stage_model(self.model_path(name, step))
            length, rows = self.config["recall"]["length"], self.config["recall"]["rows"]
            (found,) = needle_accuracy(kept, task, length, rows=rows)
            recall.append({"step": step, "length": length, "asked": found.asked, "right": found.right})
        print(f"{name}: {part['parameters']:,} parameters, {part['training_seconds']} s, {recall}", flush=True)
        return part | {"seed": self.config["seed"], "recall": recall}

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing. Writes the memories' checkpoints and `assets/stage.json`: the default text,
        read and drawn."""
        names = list(self.config["models"])
        made = dict(zip(names, self.made([(name,) for name in names]), strict=True))
        written, models = [], {}
        for name in names:
            models[name] = {}
            steps = self.config["checkpoints"]
            for step in steps[-1:] if name in BESIDE else steps:
                checkpoint = assets / "checkpoints" / f"stage-{name}-{step}.safetensors"
                model = load_model(self.model_path(name, step))
                save_model(model, checkpoint, info={"trained_as": name, "step": step, **self.recording.about()})
                written.append(checkpoint)
                models[name][step] = load_stage_model(checkpoint)
        recorded = {}
        for name in RECORDED:
            by_step = models[name]
            last = max(by_step)
            recorded[name] = by_step if name == SHOWN else {last: by_step[last]}
        form = take(place_fact(), recorded)
        for memory in form["memories"]:
            recalls = {found["step"]: found for found in made[memory["name"]]["recall"]}
            for checkpoint in memory["checkpoints"]:
                checkpoint["recall"] = recalls[checkpoint["step"]]
        about = {"about": self.recording.about(), "models": made}
        path = write_atomically(
            assets / "stage.json", lambda temporary: temporary.write_text(json.dumps({**about, **form}) + "\n", "utf-8")
        )
        return [*written, path]


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `checkpoints/stage-*.safetensors` and `stage.json`."""
    return Stage(device, quick, assets).run(assets)
