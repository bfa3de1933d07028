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

import json
import sys
from pathlib import Path

from nl_course.errors import check_choice
from nl_course.nested import NestedConfig
from nl_course.record import parts
from nl_course.record.hope_measures import FROZEN, MEASURES
from nl_course.record.provenance import Recording, read_config
from nl_course.tasks.formal import FormalTask
from nl_course.tasks.text import batch, library
from nl_course.training import TrainingConfig
from nl_course.training.checkpoint import load_model, save_model


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `checkpoints/hope-*.safetensors` (HOPE's, first seed) and
    `runs/hope.json`."""
    config = settings(quick)
    recording, folder = Recording("hope", config, device), parts.parts_folder("hope", assets if quick else None)
    written, tasks = [], {}
    for task, about in config["tasks"].items():
        models = {}
        for name in about["models"]:
            runs = [part(config, task, name, seed, folder, device) for seed in about["seeds"]]
            first = runs[0]
            models[name] = {key: first[key] for key in ("memory", "options", "levels", "hidden", "parameters", "state")}
            models[name]["seeds"] = [_of_one_seed(run) for run in runs]
            if name == "hope":
                checkpoint = assets / "checkpoints" / f"hope-{task}.safetensors"
                model = load_model(model_path(folder, task, name, about["seeds"][0]))
                save_model(model, checkpoint, info={"trained_on": task, "seed": first["seed"], **recording.about()})
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


def _of_one_seed(run: dict) -> dict:
    """What the recording keeps of each run; the rest is the same for all seeds."""
    return {key: run[key] for key in ("seed", "training_seconds", "made", "curve", "found")}


def settings(quick: bool = False) -> dict:
    """The recording's config; the quick one lasts seconds."""
    config = read_config("hope")
    smaller = config.pop("quick")
    if quick:
        for task, changes in smaller.items():
            whole = config["tasks"][task]
            training = {**whole["training"], **changes["training"]}
            config["tasks"][task] = {**whole, **changes, "training": training}
    return config


def model_path(folder: Path, task: str, name: str, seed: int) -> Path:
    """Where the trained model of a part is kept."""
    return folder / f"{task}-{name}-{seed}.safetensors"


# -- one part ----------------------------------------------------------------------------------------------------------
def part(config: dict, task: str, name: str, seed: int, folder: Path, device: str = "cpu") -> dict:
    """One model of one task from one seed, trained and measured, or what is kept of it."""
    about = config["tasks"][check_choice("task", task, config["tasks"])]
    shape = parts.sized(about, name, about["models"][check_choice("model", name, about["models"])])
    # What a kept part must have been made with, as JSON gives it back.
    recipe = {key: value for key, value in about.items() if key not in ("models", "seeds")}
    recipe = json.loads(json.dumps({**recipe, "seed": seed, "model": shape.to_dict()}))

    def make() -> dict:
        training = TrainingConfig(**about["training"], seed=seed)
        model, result = parts.trained(shape, data_of(about, training), training, folder / parts.mark(recipe), device)
        provenance = Recording("hope", config, device).about()
        save_model(model, model_path(folder, task, name, seed))
        model = load_model(model_path(folder, task, name, seed), device)  # as shipped: weights in bf16
        nested = isinstance(shape, NestedConfig)
        results = {
            **parts.described(shape, model, result, about["curve_every"], provenance),
            "levels": [level.chunk for level in shape.levels[0]] if nested else None,
            "seed": seed,
            "state": [parts.state_after(model, length, device) for length in about["state_lengths"]],
            "found": MEASURES[about["kind"]](model, about),
        }
        size_and_time = f"{results['parameters']:,} parameters, {results['training_seconds']} s"
        last_loss = results["curve"][-1]["loss"]
        print(f"{task}, {name} from seed {seed}: {size_and_time}, last loss {last_loss}", flush=True)
        return results

    return parts.kept(folder / f"{task}-{name}-{seed}.json", recipe, make)


def data_of(about: dict, training: TrainingConfig):
    """step -> (inputs, targets) of a task."""
    if about["kind"] == "parity":
        return FormalTask("parity", tuple(about["lengths"]), rows=training.batch_size, seed=training.seed)
    if about["kind"] == "text":
        stream = library("prose").stream("train")
        return lambda step: batch(stream, step, training.batch_size, training.length, training.seed)

    return parts.recall_rows(about["pairs"], about["vocab"], training)


if __name__ == "__main__":
    everything = settings()
    part(everything, sys.argv[1], sys.argv[2], int(sys.argv[3]), parts.parts_folder("hope"))
