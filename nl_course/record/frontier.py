"""The frontier: recall against the bytes that a memory keeps, every point a small model trained and asked here.

Within a size all models have the same width, as many parameters (the MLPs are made as wide as it takes) and read the
same rows of multi-query recall with fresh pairs (tasks/recall.py), step for step. Then each is asked with more pairs
than it was taught with, and in longer texts. Its state is weighed after a text of the evaluated length.

Six memories are trained at every size, the others of the course at the middle one. Every model has a short
convolution: the memory's own, or one before it (Zoology gives every model one too). TTT-E2E's fast MLP and HOPE's level
learn the next token of what is read: a value after its key is one, so that a pair gets into their weights at the end of
its chunk, and not before. "hope-at-rest" is the same HOPE with a level that never moves. What came out against the
papers is kept as it came out. Those that did not learn the task in the steps that all have are trained once more, for
`longer`: beside the comparison, not in it, since they read more than the others.

Batching the seeds of a model (torch.func.vmap over stacked weights) was measured and does not pay: on one core a step
of three seeds together took 1.25 to 1.45 times as long as three steps apart (attention, linear, gated-delta, ttt-linear
and titans).

A part, one memory of one size from one seed, is kept as soon as it is done, so that a recording that was cut goes on:

    nl-course record frontier                                    everything that is missing
    nl-course record frontier --device cuda                      the sizes of a GPU
    python -m nl_course.record.frontier ttt-linear middle 0      one part
    python -m nl_course.record.frontier mag longer 0             one part of those trained for longer
"""

import json
import sys
from pathlib import Path
from typing import Any

from nl_course.errors import check_choice
from nl_course.record import parts
from nl_course.record.provenance import Recording
from nl_course.record.seeds import reach
from nl_course.record.sizes import changed, settings
from nl_course.tasks.needle_scores import wilson
from nl_course.tasks.recall import accuracy, mqar
from nl_course.training import TrainingConfig


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `runs/frontier.json`."""
    config = settings("frontier", device, quick)
    recording, folder = Recording("frontier", config, device), parts.parts_folder("frontier", assets if quick else None)
    wanted = [(name, size, seed) for name, size, seeds in grid(config) for seed in seeds]
    made = {w: part(config, *w, folder, device) for w in sorted(wanted, key=lambda w: w[2])}  # first seeds first
    points = [point(name, size, [made[name, size, seed] for seed in seeds]) for name, size, seeds in grid(config)]
    more, patient = config["longer"], lengthened(config)
    longer = []
    for name in more["models"]:
        found = [part(patient, name, more["size"], seed, folder, device) for seed in more["seeds"]]
        longer.append(point(name, more["size"], found))
    results = {
        "units": "state in bytes, one row, measured on its tensors after a text of that length; `formula` the same by "
        "the memory's own formula. recall: the share of `questions` answered rightly, `by_seed` and the mean of the "
        "seeds; low and high hold 95 of 100: Student's t over the seeds where there are more than one, else Wilson's "
        "over the questions. power: of the law that gaps are drawn from, 1 is uniform",
        "sizes": config["sizes"],
        "points": points,
        "longer": {"steps": patient["training"]["steps"], "points": longer},
    }
    return [recording.write(assets / "runs" / "frontier.json", results)]


def grid(config: dict[str, Any]) -> list[tuple[str, str, list[int]]]:
    """(memory, size, seeds) of every point, small sizes first."""
    return [
        (name, size, model["seeds"])
        for size in config["sizes"]
        for name, model in config["models"].items()
        if size in model["sizes"]
    ]


def lengthened(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the runs that are given more steps; their parts are kept under names of their own."""
    more = config["longer"]
    return {**config, "training": {**config["training"], **more["training"]}, "suffix": "-longer"}


def shape_of(config: dict[str, Any], name: str, size: str) -> parts.Shape:
    """The model of a point. A model's `by_size` has what differs from size to size, such as the window."""
    about = {**config["shared"], **config["sizes"][check_choice("size", size, config["sizes"])]}
    model = config["models"][check_choice("model", name, config["models"])]
    return parts.sized(about, name, changed(model["spec"], model.get("by_size", {}).get(size, {})))


def training_of(config: dict[str, Any], size: str, seed: int) -> TrainingConfig:
    return TrainingConfig(**{**config["training"], **config["sizes"][size].get("training", {}), "seed": seed})


# -- one part ----------------------------------------------------------------------------------------------------------
def part(config: dict[str, Any], name: str, size: str, seed: int, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """One memory of one size from one seed, trained and asked, or what is kept of it."""
    shape, training = shape_of(config, name, size), training_of(config, size, seed)
    wanted = {key: config[key] for key in ("pairs", "asked", "curve_every")}
    wanted = json.loads(json.dumps({**wanted, "training": training.to_dict(), "model": shape.to_dict()}))

    def make() -> dict[str, Any]:
        data = parts.recall_rows(config["pairs"], shape.vocab, training)
        model, run = parts.trained(shape, data, training, folder / parts.mark(wanted), device)
        about = Recording("frontier", config, device).about()
        found = {
            "seed": seed,
            "model": shape.to_dict(),
            "hidden": parts.hidden_of(shape),
            "parameters": model.parameter_count(),
            "training_seconds": round(run.metrics[-1]["seconds"], 1),
            "made": {key: about[key] for key in ("commit", "recorded", "device") if key in about},
            "curve": parts.curve(run, config["curve_every"]),
            "asked": [asked(model, shape.vocab, question, device) for question in config["asked"]],
        }
        said = {f"{a['pairs']}@{a['length']}": round(a["right"] / a["questions"], 2) for a in found["asked"]}
        print(f"{name}, {size}, seed {seed}: {found['parameters']:,} parameters, {found['training_seconds']} s, {said}")
        sys.stdout.flush()
        return found

    return parts.kept(folder / f"{name}-{size}-{seed}{config.get('suffix', '')}.json", wanted, make)


def asked(model, vocab: int, question: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Right answers to rows of one kind, the same for every model, and the bytes kept after one of them."""
    rows = {key: question[key] for key in ("rows", "length", "pairs", "power")}
    (share,) = accuracy(model, mqar(**rows, vocab=vocab, seed=10**9), device=device)
    return {
        **rows,
        "questions": share.asked,
        "right": share.right,
        "bytes": parts.state_after(model, question["length"], device)["bytes"],
        "formula": model.state_bytes(question["length"]),
    }


# -- a point of the frontier: the seeds together -----------------------------------------------------------------------
def point(name: str, size: str, made: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts of one memory and size as one point with its config, and what was asked of it."""
    return {
        "memory": name,
        "size": size,
        "parameters": made[0]["parameters"],
        "hidden": made[0]["hidden"],
        "seeds": [p["seed"] for p in made],
        "model": made[0]["model"],
        "asked": [pooled(rows) for rows in zip(*(p["asked"] for p in made), strict=True)],
        "runs": [{key: p[key] for key in ("seed", "training_seconds", "made", "curve")} for p in made],
    }


def pooled(rows: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The same questions to every seed: each one's share, their mean, and what holds 95 of 100."""
    shares = [row["right"] / row["questions"] for row in rows]
    mean, first = sum(shares) / len(shares), rows[0]
    if len(shares) == 1:
        low, high = wilson(first["right"], first["questions"])
    else:
        half = reach(shares)
        low, high = max(0.0, mean - half), min(1.0, mean + half)
    return {
        **{key: first[key] for key in ("pairs", "length", "power", "questions", "bytes", "formula")},
        "by_seed": [round(s, 4) for s in shares],
        "mean": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "interval": "questions" if len(shares) == 1 else "seeds",
    }


if __name__ == "__main__":
    which, of_size, seeds = sys.argv[1], sys.argv[2], sys.argv[3:]
    everything = settings("frontier")
    if of_size == "longer":
        everything, of_size = lengthened(everything), everything["longer"]["size"]
    for number in seeds:
        part(everything, which, of_size, int(number), parts.parts_folder("frontier"))
