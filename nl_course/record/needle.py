"""Needles with a small model around each memory: equal in size, taught the same texts, then asked far beyond them.

Every memory is trained from each seed on pass keys, numbers and words in short texts, with a curriculum in which texts
grow longer and needles more. Then it is asked for one needle in held-out text at every length up to far beyond. All
models have the width and the layers of the config; the MLPs are as wide as it takes for all to have as many parameters.

The windows and segments of MAC, MAG and MAL are 16 bytes, so their attention cannot do the memory's work: the shortest
needle with its question has 21 bytes (style "mark"), and hay stands between the two.

RULER's published forms (tasks/ruler.py) need texts of at least 357 bytes. A long stage may have rows of them (`ruler`
of a stage: rows by RULER's names, one needle each), and all models may be asked for them (`ruler` of the config).

The protocol is that of protocol.py: each memory at the rate that its own search found, the same curriculum for all,
three seeds. A searched run is taught the first stages only (`stages` of the config's `search`), on the schedule of a
run that ends there: the last stage costs more than all others together. It is longer than two tenths of the steps, so
that `settled` compares losses of one stage. A run that diverges on the longer texts of that stage has no recall: it is
reported under `diverged` with its step, and the other seeds stand for the model.

A part, one memory from one seed, is kept as soon as it is done:

    nl-course record needle                               everything that is missing, the searches first
    python -m nl_course.record.needle ttt-linear 0        one part
"""

import sys
from pathlib import Path
from typing import Any

from nl_course.errors import CourseError, check_choice
from nl_course.model import LanguageModel
from nl_course.record import parts
from nl_course.record.protocol import Comparison, Trial
from nl_course.record.recipe import Part, selected
from nl_course.record.sizes import settings_replaced
from nl_course.tasks.needle import NeedleTask, mixed, ruler_task, stages
from nl_course.tasks.needle_scores import Found, needle_accuracy, wilson
from nl_course.training import Data, Diverged, TrainingConfig
from nl_course.training.checkpoint import load_model, save_model

UNITS = (
    "lengths and states in bytes; recall is the share of answers right in every byte, of `asked`, all "
    "seeds together, with Wilson's 95% interval; `by_seed` the share of each; loss in nats per byte of an answer"
)


class Needle(Comparison):
    """Recall of a needle by length. A part is (model, seed)."""

    name = "needle"

    @classmethod
    def settings(cls, device: str = "cpu", quick: bool = False) -> dict[str, Any]:
        """The recording's config, the same for every device; the quick one lasts seconds."""
        return settings_replaced(cls.name, quick)

    def shape_of(self, name: str) -> parts.Shape:
        """The model called `name`."""
        return parts.sized(self.config, name, self.config["models"][check_choice("model", name, self.config["models"])])

    def trial(self, rate: float, seed: int, name: str) -> Trial:
        """A model, taught the curriculum at a rate from a seed; from the seed of the search its first stages."""
        taught = selected(self.config, "stages", "style")
        search = self.config["search"]
        if seed == search.get("seed"):
            taught["stages"] = taught["stages"][: search["stages"]]
        training, data = curriculum({**self.config, **taught}, rate, seed)
        return Trial(self.shape_of(name), training, data, taught)

    def identity(self, name: str, seed: int) -> dict[str, Any]:
        """The training and what is asked."""
        asked = selected(self.config, "curve_every", "lengths", "samples", "depths", "batch", "piece")
        return {**self.reported(name, seed).identity(), "kinds": kinds_asked(self.config), **asked}

    def model_path(self, name: str, seed: int) -> Path:
        """Where a part's trained model is kept."""
        return self.folder / f"{name}-{seed}.safetensors"

    def make(self, folder: Path, name: str, seed: int) -> Part:
        """Trains a model on the curriculum and asks it for needles. Of a run that diverges only the step is kept."""
        shape = self.shape_of(name)
        made = self.provenance("commit", "recorded")
        try:
            model, run = self.trained(folder, name, seed)
        except Diverged as failure:
            print(f"{name} from seed {seed}: {failure}", flush=True)
            return {"seed": seed, "rate": self.rate(seed, name), "diverged": failure.step, "made": made}
        save_model(model, self.model_path(name, seed))
        model = load_model(self.model_path(name, seed), self.device)  # as shipped: weights in bf16
        part = parts.described(shape, model, run, self.config["curve_every"], made) | {
            "conv": shape.conv,
            "seed": seed,
            "recall": {kind: recall(model, self.config, kind) for kind in kinds_asked(self.config)},
            "state": [parts.state_after(model, length, self.device) for length in self.config["lengths"]],
        }
        shares = {}
        for kind, rows in part["recall"].items():
            shares[kind] = [round(row["accuracy"], 2) for row in rows]
        size = f"{part['parameters']:,} parameters, {part['training_seconds']} s"
        print(f"{name} from seed {seed}: {size}, {shares}", flush=True)
        return part

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing; writes each model's first trained seed and `runs/needle.json`."""
        keys = []
        for seed in self.config["seeds"]:  # first seeds first
            keys += [(name, seed) for name in self.config["models"]]
        parts_made = self.searched_and_made(keys)
        written, models = [], {}
        for name in self.config["models"]:
            every = [parts_made[name, seed] for seed in self.config["seeds"]]
            made = [part for part in every if "diverged" not in part]
            failed = [selected(part, "seed", "rate", "diverged", "made") for part in every if "diverged" in part]
            if not made:
                raise CourseError(f"{name!r} diverges from every seed: {', '.join(map(str, self.config['seeds']))}.")
            first_seed = made[0]["seed"]
            checkpoint = assets / "checkpoints" / f"needle-{name}.safetensors"
            model = load_model(self.model_path(name, first_seed))
            save_model(model, checkpoint, info={"trained_as": name, "seed": first_seed, **self.recording.about()})
            written.append(checkpoint)
            recalls = {}
            for kind in kinds_asked(self.config):
                recalls[kind] = pooled([part["recall"][kind] for part in made])
            models[name] = {
                **selected(made[0], "memory", "options", "path", "conv", "hidden", "parameters", "state"),
                "search": self.search(name),
                "checkpoint": checkpoint.name,
                "recall": recalls,
                "seeds": [selected(part, *parts.OF_A_RUN) for part in made],
                "diverged": failed,
            }
        return [*written, self.recording.write(assets / "runs" / "needle.json", {"units": UNITS, "models": models})]


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `checkpoints/needle-*.safetensors` (of the first seed) and
    `runs/needle.json`."""
    return Needle(device, quick, assets).run(assets)


def curriculum(config: dict[str, Any], rate: float, seed: int) -> tuple[TrainingConfig, Data]:
    """The training config at a rate, and step -> (inputs, targets): stage after stage, with rows of every kind in each
    step."""
    tasks_of_stages = []
    for stage in config["stages"]:
        tasks = []
        for kind, rows in stage["rows"].items():
            needles = 1 if kind == "passkey" else stage["needles"]  # a pass key has no key to tell it from another
            tasks.append(
                NeedleTask(
                    kind,
                    length=stage["length"],
                    needles=needles,
                    questions=needles,
                    rows=rows,
                    style=config["style"],
                    seed=seed,
                )
            )
        for name, rows in stage.get("ruler", {}).items():
            tasks.append(ruler_task(name, stage["length"], rows=rows, seed=seed))
        tasks_of_stages.append((stage["steps"], mixed(*tasks)))
    last = config["stages"][-1]
    rows_of_last = {**last["rows"], **last.get("ruler", {})}
    training = TrainingConfig(
        **config["training"],
        steps=sum(stage["steps"] for stage in config["stages"]),
        batch_size=sum(rows_of_last.values()),
        length=last["length"],
        learning_rate=rate,
        seed=seed,
    )
    return training, stages(*tasks_of_stages)


# -- what is measured --------------------------------------------------------------------------------------------------
def kinds_asked(config: dict[str, Any]) -> list[str]:
    """What every model is asked for: kinds of needles in the style of the config, then RULER's forms by name."""
    return [*config["kinds"], *config.get("ruler", [])]


def task_asked(config: dict[str, Any], kind: str) -> NeedleTask:
    """Texts with a needle of that kind, or of that form of RULER's, as long as those of the last stage."""
    length = config["stages"][-1]["length"]
    if kind in config.get("ruler", []):
        return ruler_task(kind, length)
    return NeedleTask(kind, length, style=config["style"])


def recall(model: LanguageModel, config: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Answers to one needle in held-out text, at each length: all depths together, and by depth."""
    task, rows = task_asked(config, kind), []
    for length, samples in zip(config["lengths"], config["samples"], strict=True):
        by_depth = needle_accuracy(
            model, task, length, rows=samples, batch=config["batch"], piece=config["piece"], depths=config["depths"]
        )
        rows.append(row(length, by_depth))
    return rows


def row(length: int, by_depth: list[Found]) -> dict[str, Any]:
    """The counts at one length as JSON."""
    asked = sum(stretch.asked for stretch in by_depth)
    right = sum(stretch.right for stretch in by_depth)
    share_of_bytes = sum(stretch.right_bytes for stretch in by_depth) / sum(stretch.bytes for stretch in by_depth)
    return {
        "length": length,
        "asked": asked,
        "right": right,
        "accuracy": right / asked,
        "right_bytes": round(share_of_bytes, 4),
        "by_depth": [{"low": s.low, "high": s.high, "asked": s.asked, "right": s.right} for s in by_depth],
    }


def pooled(seeds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The same rows of every seed as one, with an interval."""
    together = []
    for rows in zip(*seeds, strict=True):
        asked = sum(row["asked"] for row in rows)
        right = sum(row["right"] for row in rows)
        low, high = wilson(right, asked)
        depths = []
        for same in zip(*(row["by_depth"] for row in rows), strict=True):
            asked_here = sum(stretch["asked"] for stretch in same)
            right_here = sum(stretch["right"] for stretch in same)
            depths.append({**same[0], "asked": asked_here, "right": right_here})
        together.append(
            {
                "length": rows[0]["length"],
                "asked": asked,
                "right": right,
                "accuracy": round(right / asked, 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "right_bytes": round(sum(row["right_bytes"] for row in rows) / len(rows), 4),
                "by_seed": [round(row["accuracy"], 4) for row in rows],
                "by_depth": depths,
            }
        )
    return together


if __name__ == "__main__":
    which, *seed_numbers = sys.argv[1:]
    recipe = Needle()
    for number in seed_numbers:
        recipe.part(which, int(number))
