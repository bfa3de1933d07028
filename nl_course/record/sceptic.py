"""The sceptic's lab: trained memories asked with their inner loop changed, on recall of fresh pairs and on text.

Every model of a task has one width, one layer and as many parameters. Those with an inner loop that predicts a value
from a key (TTT, Titans, self-modifying Titans) are asked again with each ablation (memories/ablations) that they have,
by the names under `switches`; some are also trained with one, from the same seeds. The delta rule, linear attention
and softmax attention answer the same questions of pairs that no model was trained on: what any account of the others
must also explain.

The protocol is that of protocol.py: each model, also one that is trained with an ablation, at the rate that its own
search found, with as many steps as the task's others and three seeds. Each run says whether its loss had settled.

A part, one model of one task, trained in one way from one seed, is kept as soon as it is done:

    nl-course record sceptic                                             everything that is missing, searches first
    python -m nl_course.record.sceptic recall titans "as trained" 0      one part

`runs/sceptic.json` holds `rows`, one a (task, model, trained_with, asked_with); `units` says what is in them.
"""

from pathlib import Path
from typing import Any

import torch

from nl_course.errors import CourseError, check_choice
from nl_course.memories.ablations.switches import Ablation, ablate, ablated, can_be_ablated
from nl_course.model import LanguageModel
from nl_course.record import parts
from nl_course.record.protocol import Comparison, Trial
from nl_course.record.recipe import Part, make_part, selected
from nl_course.record.sceptic_measures import distances, inner_losses, recall_of, text_of
from nl_course.record.seeds import reach
from nl_course.record.texts import recording_library, split_of
from nl_course.renamed import translate
from nl_course.tasks.text import batch
from nl_course.training import Data, TrainingConfig
from nl_course.training.checkpoint import load_model, save_model

USUAL = "as trained"  # the name of no ablation
UNITS = (
    "trained_with and asked_with name entries of `switches`; a model trained with a switch is asked with it, and with "
    "none. Every quantity is {by_seed, mean, low, high}: low and high hold 95 of 100 (Student's t over the seeds), "
    "null where there is one seed, and all null where a seed's inner loop ran away. task recall: `recall`, the share "
    "of questions answered rightly (each seed's of `questions`), and `loss`, nats of an answer; pairs are drawn "
    "afresh, never seen in training. task text: `loss`, nats per byte of held-out windows, and no `recall`. `inner` "
    "(memories with an inner loop): the loss |f(x) - v|^2 / 2 of a chunk's pairs with the weights that the chunk began "
    "with (before) and ended with (after), at x = k and at x = q, as a share of |v|^2 / 2, over all heads and tokens "
    "of `looked_at` rows; v is the memory's own target in self-modifying Titans. `distance` (asked as trained, reading "
    "with q), of the queries and keys that the inner network meets, q and k: `frechet`, between Gaussians of their "
    "means and covariances, over the mean of |q|^2 and |k|^2 (0: the same; 2: centered on zero and nothing in common), "
    "heads averaged; `frechet_keys`, of one half of the keys to the other, what 0 comes to with so many; `cosine`, of "
    "a token's q and its own k; on recall also `cosine_asked`, of a question's q and the k under which its answer was "
    "written, and `cosine_others`, those of the row's other pairs"
)


class Sceptic(Comparison):
    """Memories asked with their inner loop changed. A part is (task, model, trained_with, seed)."""

    name = "sceptic"

    def keys(self) -> list[tuple[str, str, str, int]]:
        """The key of every part, in the order of the recording's rows."""
        keys = []
        for task, about in self.config["tasks"].items():
            for name in about["models"]:
                for trained_with in (USUAL, *about["retrained"].get(name, ())):
                    keys += [(task, name, trained_with, seed) for seed in about["seeds"]]
        return keys

    def file_name(self, task: str, name: str, trained_with: str, seed: int) -> str:
        """The part's file without its ending."""
        return f"{task}-{name}-{trained_with.replace(' ', '-')}-{seed}"

    def model_path(self, task: str, name: str, trained_with: str, seed: int) -> Path:
        """Where a part's trained model is kept."""
        return self.folder / f"{self.file_name(task, name, trained_with, seed)}.safetensors"

    def rates(self, task: str, name: str, trained_with: str) -> list[float]:
        """The rates that are tried on a task."""
        return self.config["tasks"][check_choice("task", task, self.config["tasks"])]["rates"]

    def trial(self, rate: float, seed: int, task: str, name: str, trained_with: str) -> Trial:
        """A model of a task, trained in one way at a rate from a seed."""
        check_choice("switches", trained_with, self.config["switches"])
        shape, about = shape_of(self.config, task, name), self.config["tasks"][task]
        training = TrainingConfig(**about["training"], learning_rate=rate, seed=seed)
        taught = {"kind": about["kind"], "pairs": about.get("pairs"), **self.config["switches"][trained_with]}
        if about["kind"] == "text":
            taught["split"] = split_of(about)
        ablation = ablation_named(self.config["switches"], trained_with)
        prepare = None
        if ablation.changed:

            def prepare(model: LanguageModel) -> None:
                """Switches the ablation on in a new model, before it is trained."""
                ablate(model, ablation)

        return Trial(shape, training, data_of(about, training), taught, prepare)

    def identity(self, task: str, name: str, trained_with: str, seed: int) -> dict[str, Any]:
        """The training, what is asked and in which ways, and the device."""
        trial = self.reported(task, name, trained_with, seed).identity()
        about = self.config["tasks"][task]
        measured = ("asked_pairs", "asked_rows", "looked_at", "window", "windows")
        asked = {key: about[key] for key in measured if key in about}
        asked |= selected(self.config, "curve_every", "batch", "switches")
        return {**trial, **asked, "trained_with": trained_with, "device": self.device}

    def make(self, folder: Path, task: str, name: str, trained_with: str, seed: int) -> Part:
        """Trains a model in one way and asks it in all."""
        shape, about = shape_of(self.config, task, name), self.config["tasks"][task]
        made = self.provenance("commit", "recorded")
        model, run = self.trained(folder, task, name, trained_with, seed)
        path = self.model_path(task, name, trained_with, seed)
        save_model(model, path)
        model = load_model(path, self.device)  # as shipped: weights in bf16
        asked = {}
        for way, change in ways(self.config["switches"], model, trained_with).items():
            with_distance = way in (USUAL, trained_with) and change.read_with == "query"
            asked[way] = ask(model, change, about, self.config["batch"], with_distance)
        results = ", ".join(f"{way} {row.get('recall', row['loss'])}" for way, row in asked.items())
        seconds = round(run.metrics[-1]["seconds"], 1)
        print(f"{task}, {name}, {trained_with}, seed {seed}: {seconds} s. {results}", flush=True)
        return {**parts.described(shape, model, run, self.config["curve_every"], made), "seed": seed, "asked": asked}

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing; writes `checkpoints/sceptic-TASK-MODEL.safetensors` (first seed, as
        trained) and `runs/sceptic.json`."""
        tasks = self.config["tasks"]

        def urgency(key: tuple[str, str, str, int]) -> tuple[int, bool]:
            """The order of recording: the first seed first, the usual training first."""
            # First seeds first, and what is trained as usual before what is not: a recording that is cut short has
            # something of everything.
            task, _, trained_with, seed = key
            return tasks[task]["seeds"].index(seed), trained_with != USUAL

        made = self.searched_and_made(sorted(self.keys(), key=urgency))
        rows, models, written = [], {}, []
        for task, name, trained_with in dict.fromkeys(key[:3] for key in self.keys()):
            seeds = [made[task, name, trained_with, seed] for seed in tasks[task]["seeds"]]
            title = name if trained_with == USUAL else f"{name}, {trained_with}"
            models.setdefault(task, {})[title] = {
                **selected(seeds[0], "memory", "options", "path", "hidden", "parameters"),
                "search": self.search(task, name, trained_with),
                "seeds": [selected(part, *parts.OF_A_RUN) for part in seeds],
            }
            for asked_with in seeds[0]["asked"]:
                about = {"task": task, "model": name, "trained_with": trained_with, "asked_with": asked_with}
                rows.append(about | pooled([part["asked"][asked_with] for part in seeds]))
            if trained_with == USUAL and "inner" in seeds[0]["asked"][USUAL]:
                checkpoint = assets / "checkpoints" / f"sceptic-{task}-{name}.safetensors"
                first_seed = tasks[task]["seeds"][0]
                model = load_model(self.model_path(task, name, USUAL, first_seed))
                info = {"trained_on": task, "seed": first_seed, **self.recording.about()}
                save_model(model, checkpoint, info=info)
                models[task][title]["checkpoint"] = checkpoint.name
                written.append(checkpoint)
        results = {"units": UNITS, "switches": self.config["switches"], "models": models, "rows": rows}
        return [*written, self.recording.write(assets / "runs" / "sceptic.json", results)]


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes the checkpoints and `runs/sceptic.json`."""
    return Sceptic(device, quick, assets).run(assets)


# -- seeds together ----------------------------------------------------------------------------------------------------
def pooled(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """The same quantities of every seed as one, groups of them (`inner`, `distance`) each by itself."""
    together = {}
    for key, value in seeds[0].items():
        values = [one[key] for one in seeds]
        if isinstance(value, dict):
            together[key] = pooled(values)
        else:
            together[key] = value if key == "questions" else interval(values)
    return together


def interval(values: list[float | None]) -> dict[str, Any]:
    """Each seed's, their mean, and what holds 95 of 100 by Student's t; all None if a seed's is no number."""
    if None in values:
        return {"by_seed": values, "mean": None, "low": None, "high": None}
    mean, half = sum(values) / len(values), reach(values)
    low, high = None, None
    if half is not None:
        low, high = round(mean - half, 4), round(mean + half, 4)
    return {"by_seed": values, "mean": round(mean, 4), "low": low, "high": high}


# -- one part ----------------------------------------------------------------------------------------------------------
def shape_of(config: dict[str, Any], task: str, name: str) -> parts.Shape:
    """The model called `name`, with the sizes of the task."""
    about = config["tasks"][check_choice("task", task, config["tasks"])]
    spec = config["models"][check_choice("model", name, about["models"])]
    return parts.sized({**config, **about}, name, spec)


def ablation_named(switches: dict[str, dict], name: str) -> Ablation:
    """The ablation under that name in `switches`, the recipe's or the recording's. Raises CourseError for others."""
    options = switches[check_choice("switches", name, switches)]
    return Ablation(**translate("Ablation", options)[1])


def ways(switches: dict[str, dict], model: LanguageModel, trained_with: str) -> dict[str, Ablation]:
    """How a model is asked: in every way that its memory has if it was trained as usual, else as it was and usually."""
    if not can_be_ablated(model):
        return {USUAL: Ablation()}
    possible = {}
    for name in switches if trained_with == USUAL else (USUAL, trained_with):
        ablation = ablation_named(switches, name)
        try:
            with ablated(model, ablation):
                possible[name] = ablation
        except CourseError:  # one that this memory lacks
            continue
    return possible


@torch.no_grad()
def ask(model: LanguageModel, ablation: Ablation, about: dict, rows: int, with_distance: bool = False) -> dict:
    """Everything of one row, asked with an ablation; if `with_distance` also how queries lie to keys."""
    measure = recall_of if about["kind"] == "recall" else text_of
    if not can_be_ablated(model):
        return measure(model, about, rows)[0]
    with ablated(model, ablation):
        row, tokens = measure(model, about, rows)
        row["inner"] = inner_losses(model, tokens[: about["looked_at"]])
        if with_distance:
            row["distance"] = distances(model, tokens, about)
    return row


def data_of(about: dict, training: TrainingConfig) -> Data:
    """step -> (inputs, targets)."""
    if about["kind"] == "recall":
        return parts.recall_rows(about["pairs"], about["vocab"], training)
    stream = recording_library(about).stream("train")
    return lambda step: batch(stream, step, training.batch_size, training.length, training.seed)


if __name__ == "__main__":
    make_part(Sceptic)
