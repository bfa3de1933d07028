"""TTT-E2E on real text: is it the loop, the start made for it, or either alone?

Two networks with the same weights to learn, from the same bytes in the same steps: `meta` is trained through its inner
loop (arXiv 2512.23675), its rate warmed up; `plain` with the fast MLPs at rest. Both then read with the inner loop on
and off. `plain` with it on is dynamic evaluation; its rate is the best of a few on books that serve for nothing else.
Equal steps are not equal time: `training_seconds` says what each took. What is measured: reading_measures.py.

A part, one network from one seed, is kept as soon as it is done, so that a recording that was cut goes on:

    nl-course record reading                       everything that is missing
    python -m nl_course.record.reading meta 0      one part
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from nl_course.errors import check_choice
from nl_course.nested import NestedConfig, NestedLanguageModel, e2e_config, without_inner_loop
from nl_course.record import parts
from nl_course.record import reading_measures as measures
from nl_course.record.provenance import Recording, read_config
from nl_course.record.seeds import over_seeds
from nl_course.tasks.text import library
from nl_course.training import TrainingConfig
from nl_course.training.checkpoint import load_model, save_model

MODELS = {"meta": "reading-e2e", "plain": "reading-plain"}  # and their checkpoints
# What is shown beside what: by name, (model, inner loop) on the left less those on the right.
COMPARED = {
    "meta on - meta off": (("meta", "on"), ("meta", "off")),
    "meta on - plain off": (("meta", "on"), ("plain", "off")),
    "plain on - plain off": (("plain", "on"), ("plain", "off")),
    "meta on - plain on": (("meta", "on"), ("plain", "on")),
}


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `checkpoints/reading-*.safetensors` (of the first seed) and
    `runs/reading.json`."""
    about = settings(quick)
    recording, folder = Recording("reading", about, device), parts.parts_folder("reading", assets if quick else None)
    made = {name: [part(about, name, seed, folder, device) for seed in about["seeds"]] for name in MODELS}
    written, models = [], {}
    for name, checkpoint in MODELS.items():
        models[name] = load_model(model_path(folder, name, about["seeds"][0]))
        written.append(assets / "checkpoints" / f"{checkpoint}.safetensors")
        info = {"trained_as": name, "seed": about["seeds"][0], "rate": made[name][0]["rate"], **recording.about()}
        save_model(models[name], written[-1], info=info)
    results = {
        "units": "nats per byte, on books never trained on, of which those that `rate` was chosen on are left out; "
        "bins and distances in bytes. Differences: the mean over seeds with Student's 95 % interval. Every loss is "
        "taken before the update that learns from it",
        "bins": about["bins"],
        "distances": about["distances"],
        "parameters": models["meta"].parameter_count(),
        "models": made,
        "by_position": differences(made, "by_position"),
        "second_reading": second_readings(made),
        "check_10": check_10(about, made),
        "state": [state(models["meta"], tokens) for tokens in about["state_lengths"]],
    }
    return [*written, recording.write(assets / "runs" / "reading.json", results)]


def settings(quick: bool = False) -> dict:
    """The recording's config; the quick one lasts seconds."""
    about = read_config("reading")
    smaller = about.pop("quick")
    if quick:
        within = {name: {**about[name], **smaller[name]} for name in ("shape", "training")}
        about = {**about, **smaller, **within}
    return about


def shapes(about: dict) -> dict[str, NestedConfig]:
    """`meta`, the TTT-E2E model, and `plain`, the same network with its fast MLPs at rest."""
    config = e2e_config(**about["shape"])
    return {"meta": config, "plain": without_inner_loop(config)}


def model_path(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.safetensors"


def held_out(about: dict) -> tuple[Tensor, Tensor]:
    """The held-out books: a first share to choose a rate on, and those to measure on."""
    stream = library(about["corpus"]).stream("held_out")
    cut = int(about["choosing_share"] * len(stream))
    return stream[:cut], stream[cut:]


# -- one part ----------------------------------------------------------------------------------------------------------
def part(about: dict, name: str, seed: int, folder: Path, device: str = "cpu") -> dict:
    """One network from one seed, trained and measured, or what is kept of it."""
    shape = shapes(about)[check_choice("model", name, MODELS)]
    warmup = about["inner_warmup"] if name == "meta" else 0.0
    training = TrainingConfig(**about["training"], inner_warmup=warmup, seed=seed)
    asked = {**{key: value for key, value in about.items() if key != "seeds"}, "seed": seed, "name": name}

    def make() -> dict:
        stream = library(about["corpus"]).stream("train")
        model, result = parts.trained(shape, stream, training, folder / parts.mark(asked), device)
        made = Recording("reading", about, device).about()
        save_model(model, model_path(folder, name, seed))
        model = load_model(model_path(folder, name, seed), device)  # as shipped: weights in bf16
        found = {
            "seed": seed,
            "training_seconds": round(result.metrics[-1]["seconds"], 1),
            "made": {key: made[key] for key in ("commit", "recorded")},
            "curve": parts.curve(result, about["curve_every"]),
            **measured(model, about, name),
        }
        at = found["by_position"]
        print(f"{name} from seed {seed}: {found['training_seconds']} s, rate {found['rate']}; far on {at['on'][-1]}, "
              f"off {at['off'][-1]}", flush=True)  # fmt: skip
        return found

    return parts.kept(folder / f"{name}-{seed}.json", json.loads(json.dumps(asked)), make)


def measured(model: NestedLanguageModel, about: dict, name: str) -> dict:
    """All that is measured on one network: at `rate` if the inner loop is on, the trained one or else the chosen."""
    choosing, stream = held_out(about)
    best, tried = measures.choose_rate(model, about, choosing)
    rate, clip = about["shape"]["rate"] if name == "meta" else best, about["shape"]["clip"]
    on, off = measures.at_pace(model, about, rate, clip), measures.at_pace(model, about, None, None)
    tokens = measures.windows(stream, about["training"]["length"], about["rows"])

    def mean(factor: float, clip: float | None) -> float:
        return round(measures.losses(measures.at_pace(model, about, factor * rate, clip), tokens).mean().item(), 4)

    return {
        "rate": rate,
        "tried": tried,
        "by_position": {way: measures.by_position(m, about, stream) for way, m in (("on", on), ("off", off))},
        "second_reading": {way: measures.second_reading(m, about, stream) for way, m in (("on", on), ("off", off))},
        "loss_off": round(measures.losses(off, tokens).mean().item(), 4),
        "steps": [{"factor": factor, "loss": mean(factor, clip)} for factor in about["step_factors"]],
        "clips": [
            {
                "clip": most,
                "loss": mean(1.0, most),
                "share_clipped": measures.share_clipped(measures.at_pace(model, about, rate, most), tokens),
            }
            for most in about["clips"]
        ],
    }


@torch.no_grad()
def state(model: NestedLanguageModel, tokens: int) -> dict[str, int]:
    """Bytes that one text needs after so many tokens: of everything, of the fast weights, of the window's keys and
    values; and of a full cache in the same network, by its formula."""
    after = model.init_state(1)
    for piece in torch.zeros(1, tokens, dtype=torch.long).split(1024, dim=1):
        _, after = model(piece, after)
    still = without_inner_loop(model.config)
    full = NestedConfig.from_dict({**still.to_dict(), "options": {**still.options, "window": None}})
    return {
        "tokens": tokens,
        "bytes": after.nbytes,
        "fast": sum(w.numel() * w.element_size() for pair in after.fast.values() for w in pair),
        "window": NestedLanguageModel(still).state_bytes(tokens),
        "full_cache": NestedLanguageModel(full).state_bytes(tokens),
    }


# -- over seeds --------------------------------------------------------------------------------------------------------
def differences(made: dict, measure: str) -> dict[str, list[dict]]:
    """COMPARED, for a measure that is a list of numbers by place."""
    return {
        name: measures.compared(*([p[measure][way] for p in made[model]] for model, way in sides))
        for name, sides in COMPARED.items()
    }


def second_readings(made: dict) -> dict[str, dict]:
    """For each network with the inner loop on and off: the first reading, and by distance the second, a first reading
    at its place, and the difference."""
    found = {}
    for name in MODELS:
        for way in ("on", "off"):
            rows = [p["second_reading"][way] for p in made[name]]
            second, fresh = [r["second"] for r in rows], [r["fresh"] for r in rows]
            found[f"{name} {way}"] = {
                "first": over_seeds([r["first"] for r in rows]),
                "second": [over_seeds(values) for values in zip(*second)],
                "fresh": [over_seeds(values) for values in zip(*fresh)],
                "second - fresh": measures.compared(second, fresh),
            }
    return found


def check_10(about: dict, made: dict) -> dict:
    """After a filler longer than the window, the second reading with the inner loop on less the same network's with it
    off, by seed; `holds` if it is lower at every such distance and seed."""
    far = [i for i, distance in enumerate(about["distances"]) if distance > about["shape"]["window"]]
    on, off = ([p["second_reading"][way]["second"] for p in made["meta"]] for way in ("on", "off"))
    less = [[a[i] - b[i] for i in far] for a, b in zip(on, off)]
    return {
        "distances": [about["distances"][i] for i in far],
        "on - off": [over_seeds(values) for values in zip(*less)],
        "holds": all(value < 0 for seed in less for value in seed),
    }


if __name__ == "__main__":
    everything = settings()
    part(everything, sys.argv[1], int(sys.argv[2]), parts.parts_folder("reading"))
