"""HOPE beside Titans and a transformer, equal in size: text, recall, and parity beyond the lengths trained with.

HOPE is self-modifying Titans and then a continuum memory system (arXiv 2512.24695, section 8). The models of a task
have one width and as many layers; the MLPs, or HOPE's levels, are made as wide as it takes for all to have as many
parameters. Then the trained HOPE is asked again with the memories that make its keys, values, steps and retention held
still, one at a time: what each one's moving is worth to a model that was trained with all of them moving. Last, whether
later facts need fewer writes than earlier ones (hope_measures.py).

HOPE's levels learn from the next token. In recall and parity the answers do not stand in the text and the next token is
chance, so there the levels never move; in text they do.

A part, one model of one task from one seed, is kept as soon as it is done, so that a recording that was cut goes on:

    nl-course record hope                          everything that is missing
    python -m nl_course.record.hope parity hope 0  one part
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

from nl_course.checkpoint import load_model, save_model
from nl_course.errors import CourseError, choose
from nl_course.files import cache_folder, write_atomically
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import Level, LevelConfig, NestedConfig, NestedLanguageModel
from nl_course.record.hope_measures import FROZEN, MEASURES
from nl_course.record.inner_loop import state_after
from nl_course.record.needle import TOLERANCE, start_weights
from nl_course.record.provenance import Recording, read_config
from nl_course.tasks.formal import FormalTask
from nl_course.tasks.recall import mqar
from nl_course.tasks.text import batch, library
from nl_course.training import IGNORED, TrainingConfig, train


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `checkpoints/hope-*.safetensors` (HOPE's, first seed) and
    `runs/hope.json`."""
    config = settings(quick)
    recording, folder = Recording("hope", config, device), parts_folder(config, assets if quick else None)
    written, tasks = [], {}
    for task, asked in config["tasks"].items():
        models = {}
        for name in asked["models"]:
            parts = [part(config, task, name, seed, folder, device) for seed in asked["seeds"]]
            models[name] = {
                **{key: parts[0][key] for key in ("memory", "options", "levels", "hidden", "parameters", "state")},
                "seeds": [{k: p[k] for k in ("seed", "training_seconds", "made", "curve", "found")} for p in parts],
            }
            if name == "hope":
                checkpoint = assets / "checkpoints" / f"hope-{task}.safetensors"
                model = load_model(model_path(folder, task, name, asked["seeds"][0]))
                save_model(model, checkpoint, info={"trained_on": task, "seed": parts[0]["seed"], **recording.about()})
                models[name]["checkpoint"] = checkpoint.name
                written.append(checkpoint)
        tasks[task] = models
    results = {
        "units": "text: nats per byte by place in the text; under `frozen` what holding still adds. recall: right "
        "answers by pairs in a row. parity: `accuracy` the share of strings without a mistake, `by_place` of places "
        "(0.5 is chance). Under `frozen` the same with those memories held still. later_facts: see hope_measures.py",
        "frozen": {name: list(memories) for name, memories in FROZEN.items()},
        "tasks": tasks,
    }
    return [*written, recording.write(assets / "runs" / "hope.json", results)]


def settings(quick: bool = False) -> dict:
    """The recording's config; the quick one lasts seconds."""
    config = read_config("hope")
    smaller = config.pop("quick")
    if quick:
        for task, less in smaller.items():
            whole = config["tasks"][task]
            config["tasks"][task] = {**whole, **less, "training": {**whole["training"], **less["training"]}}
    return config


def parts_folder(config: dict, beside: Path | None = None) -> Path:
    """Where parts are kept."""
    return beside / "parts" if beside else cache_folder() / "record" / "hope"


def model_path(folder: Path, task: str, name: str, seed: int) -> Path:
    return folder / f"{task}-{name}-{seed}.safetensors"


# -- one part ----------------------------------------------------------------------------------------------------------
def part(config: dict, task: str, name: str, seed: int, folder: Path, device: str = "cpu") -> dict:
    """One model of one task from one seed, trained and measured, or what is kept of it."""
    about = config["tasks"][choose("task", task, config["tasks"])]
    shape = model_config(about, choose("model", name, about["models"]))
    asked = {**{key: value for key, value in about.items() if key not in ("models", "seeds")}, "seed": seed}
    asked = json.loads(json.dumps({**asked, "model": shape.to_dict()}))
    mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    kept = folder / f"{task}-{name}-{seed}.json"
    if kept.is_file() and (found := json.loads(kept.read_text(encoding="utf-8")))["mark"] == mark:
        return found
    torch.manual_seed(seed)
    model = build(shape)
    begin(model)
    model.to(device)
    training = TrainingConfig(**about["training"], seed=seed)
    result = train(model, data_of(about, training), training, folder=folder / mark, resume="auto", progress=False,
                   about={"model": asked["model"]})  # fmt: skip
    if result.step < training.steps:
        raise KeyboardInterrupt
    made = Recording("hope", config, device).about()
    save_model(model, model_path(folder, task, name, seed))
    model = load_model(model_path(folder, task, name, seed), device)  # as shipped: weights in bf16
    curve = [{"step": m["step"], "loss": round(m["loss"], 4)} for m in result.metrics]
    nested = isinstance(shape, NestedConfig)
    found = {
        "mark": mark,
        "memory": shape.memory,
        "options": dict(shape.options),
        "levels": [level.chunk for level in shape.levels[0]] if nested else None,
        "hidden": shape.levels[0][0].hidden if nested else shape.hidden,
        "parameters": model.parameter_count(),
        "seed": seed,
        "training_seconds": round(result.metrics[-1]["seconds"], 1),
        "made": {key: made[key] for key in ("commit", "recorded")},
        "curve": curve[:: about["curve_every"]] + curve[-1:],
        "state": [state_after(model, length, device) for length in about["state_lengths"]],
        "found": MEASURES[about["kind"]](model, about),
    }
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(kept, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    said = f"{found['parameters']:,} parameters, {found['training_seconds']} s, last loss {curve[-1]['loss']}"
    print(f"{task}, {name} from seed {seed}: {said}", flush=True)
    return found


def build(shape: ModelConfig | NestedConfig) -> LanguageModel:
    return (NestedLanguageModel if isinstance(shape, NestedConfig) else LanguageModel)(shape)


def model_config(about: dict, name: str) -> ModelConfig | NestedConfig:
    """A task's model by name, with the MLP or the levels as wide as brings it nearest to the task's `parameters`."""
    sizes = {key: about[key] for key in ("vocab", "width", "layers", "heads")}
    spec = dict(about["models"][name])
    chunks = spec.pop("levels", None)
    rate = spec.pop("rate", 0.01)

    def shaped(hidden: int) -> ModelConfig | NestedConfig:
        if chunks is None:
            return ModelConfig(**sizes, hidden=hidden, **spec)
        return NestedConfig(**sizes, levels=tuple(LevelConfig(hidden, c, rate) for c in chunks), **spec)

    counts = [build(shaped(hidden)).parameter_count() for hidden in (1, 2)]
    hidden = 1 + round((about["parameters"] - counts[0]) / (counts[1] - counts[0]))
    if hidden < 1:
        raise CourseError(f"{name!r} alone has {counts[0]:,} parameters, more than the {about['parameters']:,} asked.")
    shape = shaped(hidden)
    count = build(shape).parameter_count()
    if abs(count / about["parameters"] - 1) > TOLERANCE:
        raise CourseError(f"{name!r} would have {count:,} parameters, not {about['parameters']:,}.")
    return shape


@torch.no_grad()
def begin(model: LanguageModel) -> None:
    """Linear layers and the embedding as the needles' models begin, and levels like them: N(0, 1/inputs), what writes
    into the residual stream smaller by sqrt(2 layers)."""
    start_weights(model)
    for level in (module for module in model.modules() if isinstance(module, Level)):
        level.first.normal_(std=level.first.shape[0] ** -0.5)
        level.last.normal_(std=(2 * model.config.layers * level.last.shape[0]) ** -0.5)


def data_of(about: dict, training: TrainingConfig):
    """step -> (inputs, targets) of a task."""
    if about["kind"] == "parity":
        return FormalTask("parity", tuple(about["lengths"]), rows=training.batch_size, seed=training.seed)
    if about["kind"] == "text":
        stream = library("prose").stream("train")
        return lambda step: batch(stream, step, training.batch_size, training.length, training.seed)

    def rows(step: int):
        pairs = about["pairs"][step % len(about["pairs"])]
        found = mqar(training.batch_size, training.length, pairs, about["vocab"], seed=training.seed * 10**6 + step)
        return found.tokens, found.targets.masked_fill(~found.mask, IGNORED)

    return rows


if __name__ == "__main__":
    everything = settings()
    part(everything, sys.argv[1], sys.argv[2], int(sys.argv[3]), parts_folder(everything))
