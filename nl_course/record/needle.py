"""Needles with a small model around each memory: equal in size, taught the same texts, then asked far beyond them.

Every memory is trained from each seed on pass keys, numbers and words in short texts, a curriculum in which texts grow
longer and needles more; then asked for one needle in held-out books at every length up to far beyond. All models have
the width and the layers of the config; the MLPs are made as wide as it takes for all to have as many parameters.

A part, one memory from one seed, is kept as soon as it is done, so that a recording that was cut goes on where it was:

    nl-course record needle                               everything that is missing
    python -m nl_course.record.needle ttt-linear 0        one part
"""

import sys
from pathlib import Path

from nl_course.errors import check_choice
from nl_course.model import LanguageModel
from nl_course.record import parts
from nl_course.record.provenance import Recording, read_config
from nl_course.tasks.needle import NeedleTask, mixed, stages
from nl_course.tasks.needle_scores import Found, needle_accuracy, wilson
from nl_course.training import TrainingConfig
from nl_course.training.checkpoint import load_model, save_model


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `checkpoints/needle-*.safetensors` (of the first seed) and
    `runs/needle.json`."""
    config = settings(quick)
    recording, folder = Recording("needle", config, device), parts_folder(config, assets if quick else None)
    written, models = [], {}
    for name in config["models"]:
        made = [part(config, name, seed, folder, device) for seed in config["seeds"]]
        checkpoint = assets / "checkpoints" / f"needle-{name}.safetensors"
        model = load_model(model_path(folder, name, config["seeds"][0]))
        save_model(model, checkpoint, info={"trained_as": name, "seed": config["seeds"][0], **recording.about()})
        written.append(checkpoint)
        models[name] = {
            **{key: made[0][key] for key in ("memory", "options", "conv", "hidden", "parameters", "state")},
            "checkpoint": checkpoint.name,
            "recall": {kind: pooled([p["recall"][kind] for p in made]) for kind in config["kinds"]},
            "seeds": [{key: p[key] for key in ("seed", "training_seconds", "made", "curve")} for p in made],
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
    return parts.parts_folder(f"needle-{parts.mark(asked)}", beside)


def model_path(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.safetensors"


# -- one part ----------------------------------------------------------------------------------------------------------
def part(config: dict, name: str, seed: int, folder: Path, device: str = "cpu") -> dict:
    """One memory from one seed, trained and asked, or what is kept of it."""
    shape = parts.sized(config, name, config["models"][check_choice("model", name, config["models"])])

    def make() -> dict:
        training, data = curriculum(config, seed)
        model, result = parts.trained(shape, data, training, folder / f"{name}-{seed}", device)
        made = Recording("needle", config, device).about()
        save_model(model, model_path(folder, name, seed))
        model = load_model(model_path(folder, name, seed), device)  # as shipped: weights in bf16
        found = parts.described(shape, model, result, config["curve_every"], made) | {
            "conv": shape.conv,
            "seed": seed,
            "recall": {kind: recall(model, config, kind) for kind in config["kinds"]},
            "state": [parts.state_after(model, length, device) for length in config["lengths"]],
        }
        said = {kind: [round(f["accuracy"], 2) for f in rows] for kind, rows in found["recall"].items()}
        size = f"{found['parameters']:,} parameters, {found['training_seconds']} s"
        print(f"{name} from seed {seed}: {size}, {said}", flush=True)
        return found

    return parts.kept(folder / f"{name}-{seed}.json", {**shape.to_dict(), "seed": seed}, make)


def curriculum(config: dict, seed: int):
    """(training config, step -> (inputs, targets)): stage after stage, each step with rows of every kind."""
    tasks_of_stages = []
    for stage in config["stages"]:
        counts = {kind: 1 if kind == "passkey" else stage["needles"] for kind in stage["rows"]}
        common = {"length": stage["length"], "style": config["style"], "seed": seed}
        tasks = [
            NeedleTask(kind, needles=counts[kind], questions=counts[kind], rows=rows, **common)
            for kind, rows in stage["rows"].items()
        ]
        tasks_of_stages.append((stage["steps"], mixed(*tasks)))
    steps, last = sum(stage["steps"] for stage in config["stages"]), config["stages"][-1]
    rows = sum(last["rows"].values())
    return (
        TrainingConfig(**config["training"], steps=steps, batch_size=rows, length=last["length"], seed=seed),
        stages(*tasks_of_stages),
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


def pooled(seeds: list[list[dict]]) -> list[dict]:
    """The same rows of every seed as one, with an interval."""
    found = []
    for rows in zip(*seeds, strict=True):
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
