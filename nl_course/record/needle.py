"""Needles with a small model around each memory: equal in size, taught the same texts, then asked far beyond them.

Every memory is trained from each seed on pass keys, numbers and words in short texts, a curriculum in which texts grow
longer and needles more; then asked for one needle in held-out books at every length up to far beyond. All models have
the width and the layers of the config; the MLPs are made as wide as it takes for all to have as many parameters.

A part, one memory from one seed, is kept as soon as it is done, so that a recording that was cut goes on where it was:

    nl-course record needle                               everything that is missing
    python -m nl_course.record.needle ttt-linear 0        one part
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from nl_course.checkpoint import load_model, save_model
from nl_course.errors import CourseError, choose
from nl_course.files import cache_folder, write_atomically
from nl_course.model import LanguageModel, ModelConfig
from nl_course.record.inner_loop import state_after
from nl_course.record.provenance import Recording, read_config
from nl_course.tasks.needle import NeedleTask, mixed, stages
from nl_course.tasks.needle_scores import Found, needle_accuracy, wilson
from nl_course.training import TrainingConfig, train

TOLERANCE = 0.02  # share by which two models' parameters may differ


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `checkpoints/needle-*.safetensors` (of the first seed) and
    `runs/needle.json`."""
    config = settings(quick)
    recording, folder = Recording("needle", config, device), parts_folder(config, assets if quick else None)
    written, models = [], {}
    for name in config["models"]:
        parts = [part(config, name, seed, folder, device) for seed in config["seeds"]]
        checkpoint = assets / "checkpoints" / f"needle-{name}.safetensors"
        model = load_model(model_path(folder, name, config["seeds"][0]))
        save_model(model, checkpoint, info={"trained_as": name, "seed": config["seeds"][0], **recording.about()})
        written.append(checkpoint)
        models[name] = {
            **{key: parts[0][key] for key in ("memory", "options", "conv", "hidden", "parameters", "state")},
            "checkpoint": checkpoint.name,
            "recall": {kind: pooled([p["recall"][kind] for p in parts]) for kind in config["kinds"]},
            "seeds": [{key: p[key] for key in ("seed", "training_seconds", "made", "curve")} for p in parts],
        }
    results = {
        "units": "lengths and states in bytes; recall is the share of answers right in every byte, of `asked`, all "
        "seeds together, with Wilson's 95% interval; `by_seed` the share of each; loss in nats per byte of an answer",
        "models": models,
    }
    return [*written, recording.write(assets / "runs" / "needle.json", results)]


def settings(quick: bool = False) -> dict:
    """The recording's config; the quick one lasts seconds."""
    config = read_config("needle")
    smaller = config.pop("quick")
    if quick:
        config = {**config, **smaller, "training": {**config["training"], **smaller["training"]}}
    return config


def parts_folder(config: dict, beside: Path | None = None) -> Path:
    """Where the parts of this very config are kept: what is asked of a part is in the folder's name."""
    asked = {key: value for key, value in config.items() if key not in ("models", "seeds")}
    mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    return (beside / "parts" if beside else cache_folder() / "record") / f"needle-{mark}"


def model_path(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.safetensors"


# -- one part ----------------------------------------------------------------------------------------------------------
def part(config: dict, name: str, seed: int, folder: Path, device: str = "cpu") -> dict:
    """One memory from one seed, trained and asked, or what is kept of it."""
    shape = model_config(config, choose("model", name, config["models"]))
    kept = folder / f"{name}-{seed}.json"
    asked = {**shape.to_dict(), "seed": seed}
    if kept.is_file() and (found := json.loads(kept.read_text(encoding="utf-8")))["asked"] == asked:
        return found
    torch.manual_seed(seed)
    model = LanguageModel(shape)
    start_weights(model)
    model.to(device)
    training, data = curriculum(config, seed)
    about = {"model": {**shape.to_dict(), "options": dict(shape.options)}}
    result = train(model, data, training, folder=folder / f"{name}-{seed}", resume="auto", progress=False, about=about)
    if result.step < training.steps:
        raise KeyboardInterrupt
    made = Recording("needle", config, device).about()
    save_model(model, model_path(folder, name, seed))
    model = load_model(model_path(folder, name, seed), device)  # as shipped: weights in bf16
    curve = [{"step": m["step"], "loss": round(m["loss"], 4)} for m in result.metrics]
    found = {
        "asked": asked,
        "memory": shape.memory,
        "options": dict(shape.options),
        "conv": shape.conv,
        "hidden": shape.hidden,
        "parameters": model.parameter_count(),
        "seed": seed,
        "training_seconds": round(result.metrics[-1]["seconds"], 1),
        "made": {key: made[key] for key in ("commit", "recorded")},
        "curve": curve[:: config["curve_every"]] + curve[-1:],
        "recall": {kind: recall(model, config, kind) for kind in config["kinds"]},
        "state": [state_after(model, length, device) for length in config["lengths"]],
    }
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(kept, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    said = {kind: [round(f["accuracy"], 2) for f in rows] for kind, rows in found["recall"].items()}
    print(
        f"{name} from seed {seed}: {found['parameters']:,} parameters, {found['training_seconds']} s, {said}",
        flush=True,
    )
    return found


def model_config(config: dict, name: str) -> ModelConfig:
    """The model around a memory, with the MLP width that brings it nearest to the config's `parameters`."""
    sizes = {key: config[key] for key in ("width", "layers", "heads")}
    least = ModelConfig(**sizes, hidden=1, **config["models"][name])
    start = LanguageModel(least).parameter_count()
    hidden = 1 + round((config["parameters"] - start) / (3 * least.width * least.layers))
    if hidden < 1:
        raise CourseError(f"{name!r} alone has {start:,} parameters, more than the {config['parameters']:,} asked for.")
    shape = replace(least, hidden=hidden)
    count = LanguageModel(shape).parameter_count()
    if abs(count / config["parameters"] - 1) > TOLERANCE:
        raise CourseError(f"{name!r} would have {count:,} parameters, not {config['parameters']:,}.")
    return shape


@torch.no_grad()
def start_weights(model: LanguageModel) -> None:
    """N(0, 1/inputs) for linear layers and the embedding, those that write into the residual stream smaller by
    sqrt(2 layers): with N(0, 0.02) a model this narrow spends most of a short run on growing. The memories' own
    starts, of gates with a number a head, convolutions and fast weights, stay."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)) and len(module.weight) > model.config.heads:
            writes = name.endswith(("output", "down"))
            shrink = (2 * model.config.layers) ** 0.5 if writes else 1.0
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5 / shrink)


def curriculum(config: dict, seed: int):
    """(training config, step -> (inputs, targets)): stage after stage, each step with rows of every kind."""
    parts = []
    for stage in config["stages"]:
        counts = {kind: 1 if kind == "passkey" else stage["needles"] for kind in stage["rows"]}
        common = {"length": stage["length"], "style": config["style"], "seed": seed}
        tasks = [
            NeedleTask(kind, needles=counts[kind], questions=counts[kind], rows=rows, **common)
            for kind, rows in stage["rows"].items()
        ]
        parts.append((stage["steps"], mixed(*tasks)))
    steps, last = sum(stage["steps"] for stage in config["stages"]), config["stages"][-1]
    rows = sum(last["rows"].values())
    return (
        TrainingConfig(**config["training"], steps=steps, batch_size=rows, length=last["length"], seed=seed),
        stages(*parts),
    )


# -- what is measured --------------------------------------------------------------------------------------------------
def recall(model: LanguageModel, config: dict, kind: str) -> list[dict]:
    """Answers to one needle in held-out text, at each length: all depths together, and by depth."""
    task, found = NeedleTask(kind, style=config["style"]), []
    for length, samples in zip(config["lengths"], config["samples"], strict=True):
        by_depth = needle_accuracy(
            model, task, length, rows=samples, batch=config["batch"], piece=config["piece"], depths=config["depths"]
        )
        found.append(row(length, by_depth))
    return found


def row(length: int, by_depth: list[Found]) -> dict:
    asked, right = sum(f.asked for f in by_depth), sum(f.right for f in by_depth)
    bytes_right = sum(f.right_bytes for f in by_depth) / sum(f.bytes for f in by_depth)
    stretches = [{"low": f.low, "high": f.high, "asked": f.asked, "right": f.right} for f in by_depth]
    return {
        "length": length,
        "asked": asked,
        "right": right,
        "accuracy": right / asked,
        "right_bytes": round(bytes_right, 4),
        "by_depth": stretches,
    }


def pooled(parts: list[list[dict]]) -> list[dict]:
    """The same rows of every seed as one, with an interval."""
    found = []
    for rows in zip(*parts, strict=True):
        asked, right = (sum(r[key] for r in rows) for key in ("asked", "right"))
        low, high = wilson(right, asked)
        depths = [
            {**same[0], "asked": sum(s["asked"] for s in same), "right": sum(s["right"] for s in same)}
            for same in zip(*(r["by_depth"] for r in rows), strict=True)
        ]
        found.append(
            {
                "length": rows[0]["length"],
                "asked": asked,
                "right": right,
                "accuracy": round(right / asked, 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "right_bytes": round(sum(r["right_bytes"] for r in rows) / len(rows), 4),
                "by_seed": [round(r["accuracy"], 4) for r in rows],
                "by_depth": depths,
            }
        )
    return found


if __name__ == "__main__":
    asked = settings()
    for which in sys.argv[2:]:
        part(asked, sys.argv[1], int(which), parts_folder(asked))
