"""The sceptic's lab: trained memories asked with their inner loop changed, on recall of fresh pairs and on text.

Every model of a task has one width, one layer and as many parameters. Those with an inner loop that predicts a value
from a key (TTT, Titans, self-modifying Titans) are asked again with each ablation (memories/ablations) that they have,
by the names under `switches`; some are also trained with one, from the same seeds. The delta rule, linear attention
and softmax attention answer the same questions of pairs that no model was trained on: what any account of the others
must also explain.

A part, one model of one task, trained in one way from one seed, is kept as soon as it is done:

    nl-course record sceptic                                             everything that is missing
    python -m nl_course.record.sceptic recall titans "as trained" 0      one part

`runs/sceptic.json` holds `rows`, one a (task, model, trained_with, asked_with); `units` says what is in them.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from nl_course.errors import CourseError, check_choice
from nl_course.memories.ablations.switches import Ablation, ablate, ablated, can_be_ablated
from nl_course.record import parts
from nl_course.record.provenance import Recording
from nl_course.record.sceptic_measures import distances, inner_losses, recall_of, text_of
from nl_course.record.seeds import reach
from nl_course.record.sizes import settings
from nl_course.renamed import translate
from nl_course.tasks.text import batch, library
from nl_course.training import TrainingConfig, train
from nl_course.training.checkpoint import load_model, save_model

NAME, USUAL = "sceptic", "as trained"
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
    "means and covariances, over the mean of |q|^2 and |k|^2 (0: the same; 2: centerd on zero and nothing in common), "
    "heads averaged; `frechet_keys`, of one half of the keys to the other, what 0 comes to with so many; `cosine`, of "
    "a token's q and its own k; on recall also `cosine_asked`, of a question's q and the k under which its answer was "
    "written, and `cosine_others`, those of the row's other pairs"
)


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `checkpoints/sceptic-TASK-MODEL.safetensors` (first seed, as trained) and
    `runs/sceptic.json`."""
    config = settings(NAME, device, quick)
    recording, folder = Recording(NAME, config, device), parts.parts_folder(NAME, assets if quick else None)
    # First seeds first, and what is trained as usual before what is not: a recording that is cut has something.
    wanted = sorted(grid(config), key=lambda w: (config["tasks"][w[0]]["seeds"].index(w[3]), w[2] != USUAL))
    made = {w: part(config, *w, folder, device) for w in wanted}
    rows, models, written = [], {}, []
    for task, name, trained_with in dict.fromkeys(w[:3] for w in grid(config)):
        seeds = config["tasks"][task]["seeds"]
        found = [made[task, name, trained_with, seed] for seed in seeds]
        key = name if trained_with == USUAL else f"{name}, {trained_with}"
        models.setdefault(task, {})[key] = {
            **{key: found[0][key] for key in ("memory", "options", "hidden", "parameters")},
            "seeds": [{key: one[key] for key in ("seed", "training_seconds", "made", "curve")} for one in found],
        }
        for asked_with in found[0]["asked"]:
            about = {"task": task, "model": name, "trained_with": trained_with, "asked_with": asked_with}
            rows.append(about | pooled([one["asked"][asked_with] for one in found]))
        if trained_with == USUAL and "inner" in found[0]["asked"][USUAL]:
            checkpoint = assets / "checkpoints" / f"{NAME}-{task}-{name}.safetensors"
            model = load_model(model_path(folder, task, name, USUAL, seeds[0]))
            save_model(model, checkpoint, info={"trained_on": task, "seed": seeds[0], **recording.about()})
            models[task][key]["checkpoint"] = checkpoint.name
            written.append(checkpoint)
    results = {"units": UNITS, "switches": config["switches"], "models": models, "rows": rows}
    return [*written, recording.write(assets / "runs" / f"{NAME}.json", results)]


def grid(config: dict[str, Any]) -> list[tuple[str, str, str, int]]:
    """(task, model, trained_with, seed) of every part."""
    return [
        (task, name, trained_with, seed)
        for task, about in config["tasks"].items()
        for name in about["models"]
        for trained_with in (USUAL, *about["retrained"].get(name, ()))
        for seed in about["seeds"]
    ]


def pooled(seeds: list[dict]) -> dict:
    """The same quantities of every seed as one, groups of them (`inner`, `distance`) each by itself."""
    found = {}
    for key, value in seeds[0].items():
        values = [one[key] for one in seeds]
        found[key] = pooled(values) if isinstance(value, dict) else value if key == "questions" else interval(values)
    return found


def interval(values: list[float]) -> dict:
    """Each seed's, their mean, and what holds 95 of 100 by Student's t; all None if a seed's is no number."""
    if None in values:
        return {"by_seed": values, "mean": None, "low": None, "high": None}
    mean, half = sum(values) / len(values), reach(values)
    low, high = (None, None) if half is None else (round(mean - half, 4), round(mean + half, 4))
    return {"by_seed": values, "mean": round(mean, 4), "low": low, "high": high}


# -- one part ----------------------------------------------------------------------------------------------------------
def model_path(folder: Path, task: str, name: str, trained_with: str, seed: int) -> Path:
    return folder / f"{task}-{name}-{trained_with.replace(' ', '-')}-{seed}.safetensors"


def shape_of(config: dict, task: str, name: str) -> parts.Shape:
    about = config["tasks"][check_choice("task", task, config["tasks"])]
    spec = config["models"][check_choice("model", name, about["models"])]
    return parts.sized({**config, **about}, name, spec)


def part(
    config: dict, task: str, name: str, trained_with: str, seed: int, folder: Path, device: str = "cpu"
) -> dict[str, Any]:
    """One model of one task, trained in one way from one seed, and asked in all; or what is kept of it."""
    shape, about = shape_of(config, task, name), config["tasks"][task]
    ablation = ablation_named(config["switches"], trained_with)
    steps = about["steps"].get(name, about["training"]["steps"])
    training = TrainingConfig(**{**about["training"], "steps": steps}, seed=seed)
    asked = {key: value for key, value in about.items() if key not in ("models", "seeds", "steps", "retrained")}
    asked |= {key: config[key] for key in ("curve_every", "batch", "switches")}
    asked |= {"steps": steps, "model": shape.to_dict(), "trained_with": trained_with, "seed": seed, "device": device}
    path = model_path(folder, task, name, trained_with, seed)

    def make() -> dict:
        made = Recording(NAME, config, device).about()
        model, done = trained(shape, ablation, data_of(about, training), training, folder / parts.mark(asked), device)
        save_model(model, path)
        model = load_model(path, device)  # as shipped: weights in bf16
        seconds = round(done.metrics[-1]["seconds"], 1)
        found = {}
        for way, asked_with in ways(config, model, trained_with).items():
            near = way in (USUAL, trained_with) and asked_with.read_with == "query"
            found[way] = ask(model, asked_with, about, config["batch"], near)
        said = ", ".join(f"{w} {one.get('recall', one['loss'])}" for w, one in found.items())
        print(f"{task}, {name}, {trained_with}, seed {seed}: {seconds} s. {said}", flush=True)
        return {
            **parts.described(shape, model, done, config["curve_every"], made),
            "seed": seed,
            "asked": found,
        }

    return parts.kept(path.with_suffix(".json"), asked, make)


def trained(shape, ablation: Ablation, data, training: TrainingConfig, folder: Path, device: str = "cpu"):
    """(model, run), as `parts.trained`, with an ablation that holds while it learns."""
    torch.manual_seed(training.seed)
    model = parts.build(shape)
    parts.begin(model)
    if ablation.changed:
        ablate(model, ablation)
    run = train(model.to(device), data, training, folder=folder, resume="auto", progress=False)
    if run.step < training.steps:
        raise KeyboardInterrupt
    return model, run


def ablation_named(switches: dict[str, dict], name: str) -> Ablation:
    """The ablation under that name in `switches`, the recipe's or the recording's. Raises CourseError for others."""
    options = switches[check_choice("switches", name, switches)]
    return Ablation(**translate("Ablation", options)[1])


def ways(config: dict, model, trained_with: str) -> dict[str, Ablation]:
    """How a model is asked: in every way that its memory has if it was trained as usual, else as it was and usually."""
    if not can_be_ablated(model):
        return {USUAL: Ablation()}
    found = {}
    for name in config["switches"]:
        if trained_with != USUAL and name not in (USUAL, trained_with):
            continue
        ablation = ablation_named(config["switches"], name)
        try:
            with ablated(model, ablation):
                found[name] = ablation
        except CourseError:  # one that it lacks
            continue
    return found


@torch.no_grad()
def ask(model, ablation: Ablation, about: dict, rows: int, near: bool = False) -> dict:
    """Everything of one row, asked with an ablation; if `near` also how queries lie to keys."""
    measure = recall_of if about["kind"] == "recall" else text_of
    if not can_be_ablated(model):
        return measure(model, about, rows)[0]
    with ablated(model, ablation):
        found, tokens = measure(model, about, rows)
        found["inner"] = inner_losses(model, tokens[: about["looked_at"]])
        if near:
            found["distance"] = distances(model, tokens, about)
    return found


def data_of(about: dict, training: TrainingConfig):
    """step -> (inputs, targets)."""
    if about["kind"] == "recall":
        return parts.recall_rows(about["pairs"], about["vocab"], training)
    stream = library("prose").stream("train")
    return lambda step: batch(stream, step, training.batch_size, training.length, training.seed)


if __name__ == "__main__":
    everything = settings(NAME)
    part(everything, *sys.argv[1:4], int(sys.argv[4]), parts.parts_folder(NAME))
