"""TTT-E2E on real text: is it the loop, the start made for it, or either alone?

Two networks with the same weights to learn, from the same bytes in the same steps: `meta` is trained through its inner
loop (arXiv 2512.23675), its rate warmed up; `plain` with the fast MLPs at rest. Both then read with the inner loop on
and off. `plain` with it on is dynamic evaluation; its rate is the best of a few on books that serve for nothing else.
Equal steps are not equal time: `training_seconds` says what each took. What is measured: reading_measures.py.

A part, one network from one seed, is kept as soon as it is done:

    nl-course record reading                       everything that is missing
    python -m nl_course.record.reading meta 0      one part
"""

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import check_choice
from nl_course.nested import NestedConfig, NestedLanguageModel, e2e_config, without_inner_loop
from nl_course.record import parts
from nl_course.record import reading_measures as measures
from nl_course.record.recipe import Part, Recipe, make_part
from nl_course.record.seeds import over_seeds
from nl_course.record.sizes import settings_replaced
from nl_course.record.texts import recording_library
from nl_course.seeding import seeded
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
UNITS = (
    "nats per byte, on books never trained on, of which those that `rate` was chosen on are left out; "
    "bins and distances in bytes. Differences: the mean over seeds with Student's 95 % interval. Every loss is "
    "taken before the update that learns from it"
)


class Reading(Recipe):
    """TTT-E2E beside the same network without its inner loop. A part is (model, seed)."""

    name = "reading"

    @classmethod
    def settings(cls, device: str = "cpu", quick: bool = False) -> dict[str, Any]:
        """The recording's config, the same for every device; the quick one lasts seconds."""
        return settings_replaced(cls.name, quick, merged=("shape", "training"))

    def identity(self, name: str, seed: int) -> dict[str, Any]:
        """The whole config, the seed and the model."""
        return {**{key: value for key, value in self.config.items() if key != "seeds"}, "seed": seed, "name": name}

    def model_path(self, name: str, seed: int) -> Path:
        """Where a part's trained model is kept."""
        return self.folder / f"{name}-{seed}.safetensors"

    def make(self, folder: Path, name: str, seed: int) -> Part:
        """Trains a network and measures it."""
        about = self.config
        shape = shapes(about)[check_choice("model", name, MODELS)]
        warmup = about["inner_warmup"] if name == "meta" else 0.0
        training = TrainingConfig(**about["training"], inner_warmup=warmup, seed=seed)
        stream = recording_library(about, about["corpus"]).stream("train")
        model, run = parts.trained(shape, stream, training, folder, self.device)
        made = self.provenance("commit", "recorded")
        save_model(model, self.model_path(name, seed))
        model = load_model(self.model_path(name, seed), self.device)  # as shipped: weights in bf16
        part = {
            "seed": seed,
            "training_seconds": round(run.metrics[-1]["seconds"], 1),
            "made": made,
            "curve": parts.curve(run, about["curve_every"]),
            **measured(model, about, name),
        }
        far = {way: losses[-1] for way, losses in part["by_position"].items()}
        seconds, rate = part["training_seconds"], part["rate"]
        print(f"{name} from seed {seed}: {seconds} s, rate {rate}; far on {far['on']}, off {far['off']}", flush=True)
        return part

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing; writes the checkpoints of the first seed and `runs/reading.json`."""
        about = self.config
        first_seed = about["seeds"][0]
        made = {}
        for name in MODELS:
            made[name] = [self.part(name, seed) for seed in about["seeds"]]
        written, models = [], {}
        for name, checkpoint in MODELS.items():
            models[name] = load_model(self.model_path(name, first_seed))
            written.append(assets / "checkpoints" / f"{checkpoint}.safetensors")
            own = {"trained_as": name, "seed": first_seed, "rate": made[name][0]["rate"]}
            save_model(models[name], written[-1], info={**own, **self.recording.about()})
        results = {
            "units": UNITS,
            "bins": about["bins"],
            "distances": about["distances"],
            "parameters": models["meta"].parameter_count(),
            "models": made,
            "by_position": differences(made, "by_position"),
            "second_reading": second_readings(made),
            "check_10": check_10(about, made),
            "state": [state(models["meta"], tokens) for tokens in about["state_lengths"]],
        }
        return [*written, self.recording.write(assets / "runs" / "reading.json", results)]


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `checkpoints/reading-*.safetensors` (of the first seed) and
    `runs/reading.json`."""
    return Reading(device, quick, assets).run(assets)


def shapes(about: dict) -> dict[str, NestedConfig]:
    """`meta`, the TTT-E2E model, and `plain`, the same network with its fast MLPs at rest."""
    config = e2e_config(**about["shape"])
    return {"meta": config, "plain": without_inner_loop(config)}


def held_out(about: dict) -> tuple[Tensor, Tensor]:
    """The held-out books: a first share to choose a rate on, and those to measure on."""
    stream = library(about["corpus"]).stream("held_out")
    cut = int(about["choosing_share"] * len(stream))
    return stream[:cut], stream[cut:]


# -- what is measured --------------------------------------------------------------------------------------------------
def measured(model: NestedLanguageModel, about: dict, name: str) -> dict[str, Any]:
    """All that is measured on one network. With the inner loop on it reads at the rate it was trained with (`meta`), or
    else at the rate chosen on text that serves for nothing else."""
    choosing, stream = held_out(about)
    best, tried = measures.choose_rate(model, about, choosing)
    rate = about["shape"]["rate"] if name == "meta" else best
    clip = about["shape"]["clip"]
    ways = {"on": measures.at_pace(model, about, rate, clip), "off": measures.at_pace(model, about, None, None)}
    tokens = measures.windows(stream, about["training"]["length"], about["rows"])

    def mean_loss(model: NestedLanguageModel) -> float:
        """The mean loss on the windows, in nats per token, rounded."""
        return round(measures.losses(model, tokens).mean().item(), 4)

    steps = []
    for factor in about["step_factors"]:
        steps.append({"factor": factor, "loss": mean_loss(measures.at_pace(model, about, factor * rate, clip))})
    clips = []
    for most in about["clips"]:
        clipped = measures.at_pace(model, about, rate, most)
        share = measures.share_clipped(clipped, tokens)
        clips.append({"clip": most, "loss": mean_loss(clipped), "share_clipped": share})
    return {
        "rate": rate,
        "tried": tried,
        "by_position": {way: measures.by_position(one, about, stream) for way, one in ways.items()},
        "second_reading": {way: measures.second_reading(one, about, stream) for way, one in ways.items()},
        "loss_off": mean_loss(ways["off"]),
        "steps": steps,
        "clips": clips,
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
    with seeded(0):
        window_bytes = NestedLanguageModel(still).state_bytes(tokens)
        cache_bytes = NestedLanguageModel(full).state_bytes(tokens)
    return {
        "tokens": tokens,
        "bytes": after.nbytes,
        "fast": sum(w.numel() * w.element_size() for pair in after.fast.values() for w in pair),
        "window": window_bytes,
        "full_cache": cache_bytes,
    }


# -- over seeds --------------------------------------------------------------------------------------------------------
def differences(made: dict[str, list[Part]], measure: str) -> dict[str, list[dict]]:
    """COMPARED, for a measure that is a list of numbers by position."""

    def by_seed(model: str, way: str) -> list[list[float]]:
        """One way of reading, for each seed: a list by position."""
        return [part[measure][way] for part in made[model]]

    return {name: measures.compared(by_seed(*left), by_seed(*right)) for name, (left, right) in COMPARED.items()}


def second_readings(made: dict[str, list[Part]]) -> dict[str, dict]:
    """For each network with the inner loop on and off: the first reading, and by distance the second, a first reading
    at its position, and the difference."""
    readings = {}
    for name in MODELS:
        for way in ("on", "off"):
            rows = [part["second_reading"][way] for part in made[name]]
            second = [row["second"] for row in rows]  # (seeds, distances)
            fresh = [row["fresh"] for row in rows]
            readings[f"{name} {way}"] = {
                "first": over_seeds([row["first"] for row in rows]),
                "second": [over_seeds(values) for values in zip(*second)],
                "fresh": [over_seeds(values) for values in zip(*fresh)],
                "second - fresh": measures.compared(second, fresh),
            }
    return readings


def check_10(about: dict, made: dict[str, list[Part]]) -> dict:
    """After a filler longer than the window: the second reading with the inner loop on less the same network's with it
    off, by seed. `holds` if it is lower at every such distance and seed."""
    beyond_window = [i for i, distance in enumerate(about["distances"]) if distance > about["shape"]["window"]]
    by_seed = []
    for part in made["meta"]:
        on = part["second_reading"]["on"]["second"]
        off = part["second_reading"]["off"]["second"]
        by_seed.append([on[i] - off[i] for i in beyond_window])
    return {
        "distances": [about["distances"][i] for i in beyond_window],
        "on - off": [over_seeds(values) for values in zip(*by_seed)],
        "holds": all(value < 0 for value in chain.from_iterable(by_seed)),
    }


if __name__ == "__main__":
    make_part(Reading)
