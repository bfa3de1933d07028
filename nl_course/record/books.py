"""What is still known of the first book: trained models read on and on, and are asked for a fact planted at the start.

The models are those of the recipe `needle`, as they stand, and two more that are trained here by the same curriculum:
attention that keeps its whole cache, without positions and with rotary ones (that one gets lost beyond its lengths).
Each reads real books that no model of the course was trained on, in four ways:

    first        one fact in the first 512 bytes of the first book, and none after
    everywhere   a further fact in each 1,024 bytes, so that facts overwrite facts; asked by age
    load         1, 2, 4 and 8 facts in 512 bytes, asked at once: how many does a memory hold at all?
    fresh        books first, then 512 bytes with one fact, asked at once: can it still take one in?

A question goes to a branch of the state, which itself reads on undisturbed. The same bytes go into a plain text index
on disk, which is asked the same questions. Parts are kept as they are done (see `parts`).
"""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from nl_course.files import asset
from nl_course.record import needle, parts
from nl_course.record.provenance import Recording, read_config
from nl_course.tasks.lookup import Index
from nl_course.tasks.needle_scores import wilson
from nl_course.tasks.planted import PlantedBooks, PlantedText, recalled
from nl_course.training.checkpoint import load_model, save_model

AGES = (0, 256, *(512 * 2**i for i in range(7)))  # edges of the classes of age, in bytes


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `checkpoints/books-*.safetensors` and `runs/books.json`."""
    config = settings(quick)
    recording, folder = Recording("books", config, device), parts.parts_folder("books", assets if quick else None)
    written, models = [], {}
    for name, spec in config["models"].items():
        own = None
        if "train" in spec:
            own = taught(config, name, folder, device, quick)
            written.append(assets / "checkpoints" / f"{spec['checkpoint']}.safetensors")
            save_model(load_model(own), written[-1], info={"trained_as": name, **recording.about()})
        checkpoint = own or asset(f"checkpoints/{spec['checkpoint']}.safetensors")
        models[name] = read_by(config, name, checkpoint, folder, device)
        models[name]["fresh"] = fresh_by(config, name, checkpoint, folder, device)
        said = [f"{row['bytes'] >> 10}k {row['accuracy']:.2f}" for row in models[name]["first"]]
        print(f"{name}: {', '.join(said)}", flush=True)
    results = {
        "units": "bytes read, of state and of age; `right` of `asked` facts exactly; low and high the wider of "
        "Wilson's 95% interval and of one from drawing texts anew, since the facts of a text share a state; seconds of "
        "reading, all rows together",
        "models": models,
        "index": parts.kept(folder / "index.json", shared(config), lambda: index_by(config)),
    }
    return [*written, recording.write(assets / "runs" / "books.json", results)]


def settings(quick: bool = False) -> dict:
    """The recording's config; the quick one lasts seconds."""
    config = read_config("books")
    smaller = config.pop("quick")
    return {**config, **smaller} if quick else config


def shared(config: dict) -> dict:
    """What of the config concerns every reader and every way of reading but `fresh`, which is a part of its own."""
    return {key: value for key, value in config.items() if key not in ("models", "fresh")}


def taught(config: dict, name: str, folder: Path, device: str, quick: bool) -> Path:
    """A model trained here, by the curriculum and in the size of the recipe `needle`."""
    about = needle.Needle.settings(quick=quick)
    shape = parts.sized(about, name, config["models"][name]["train"])

    asked = {"shape": shape.to_dict(), "about": about, "seed": config["seed"]}
    path = folder / f"{name}-{parts.mark(asked)}.safetensors"

    def make() -> dict:
        training, data = needle.curriculum(about, config["seed"])
        model, made = parts.trained(shape, data, training, path.with_suffix(""), device)
        save_model(model, path)
        return {"seconds": round(made.metrics[-1]["seconds"], 1)}

    parts.kept(folder / f"{name}-taught.json", asked, make)
    return path


# -- what is read ------------------------------------------------------------------------------------------------------
def texts(config: dict, group: dict, first_row: int, every: int | None = None) -> Iterator[list[PlantedText]]:
    """The texts of a group of rows, a batch at a time."""
    about = {key: config[key] for key in ("facts", "within", "rows", "seed")}
    books = PlantedBooks(length=group["bytes"], every=every, packages=tuple(config["shelf"]), **about)
    for start in range(first_row, first_row + group["rows"], config["batch"]):
        yield [books.text(row) for row in range(start, min(start + config["batch"], first_row + group["rows"]))]


def stops(config: dict, group: dict) -> list[int]:
    return [at for at in config["read"] if at <= group["bytes"]]


def read_by(config: dict, name: str, checkpoint: Path, folder: Path, device: str) -> dict:
    """What one model is after so many bytes, and what it still answers, or what is kept of it."""
    config = {**config, **{k: v for k, v in config["models"][name].items() if k in ("groups", "piece")}}
    everywhere = {**config["everywhere"], **config["models"][name].get("everywhere", {})}
    weights = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]

    def make() -> dict:
        model = load_model(checkpoint, device).eval()
        found = parts.about_model(model.config, model)
        found |= {"conv": model.config.conv, "checkpoint": f"{config['models'][name]['checkpoint']}.safetensors"}
        first, row = {}, 0
        for group in config["groups"]:
            for some in texts(config, group, row):
                read_and_ask(model, some, stops(config, group), config, device, first)
            row += group["rows"]
        also: dict = {}
        for some in texts(config, everywhere, 0, everywhere["every"]):
            read_and_ask(model, some, stops(config, everywhere), config, device, also, all_facts=True)
        loads = []
        for facts in config["loads"]:
            at, group = config["within"], {"rows": config["rows"], "bytes": config["within"]}
            load: dict = {}
            for some in texts({**config, "facts": facts}, group, 0):
                read_and_ask(model, some, [at], config, device, load)
            loads.append({"facts": facts, **scored(at, load[at])})
        return found | {
            "load": loads,
            "first": [scored(at, some) for at, some in first.items()],
            "everywhere": [{"bytes": at, "by_age": by_age(at, some)} for at, some in also.items()],
        }

    asked = {**shared(config), "everywhere": everywhere, "weights": weights}
    return {k: v for k, v in parts.kept(folder / f"{name}-read.json", asked, make).items() if k != "mark"}


def fresh_by(config: dict, name: str, checkpoint: Path, folder: Path, device: str) -> list[dict]:
    """After so many bytes of books without a fact: a text of `within` bytes with one, and the question at its end."""
    about = {**config["fresh"], **config["models"][name].get("fresh", {})}
    piece = config["models"][name].get("piece", config["piece"])
    size = {"within": config["within"], "rows": config["rows"], "facts": 1, "packages": tuple(config["shelf"])}
    weights = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]

    @torch.no_grad()
    def make() -> dict:
        model, found = load_model(checkpoint, device).eval(), {stop: [] for stop in about["read"]}
        long = PlantedBooks(length=config["within"] + about["read"][-1], seed=config["seed"], **size)
        short = PlantedBooks(length=config["within"], seed=config["seed"], **size)
        for start in range(0, about["rows"], config["batch"]):
            rows = range(start, min(start + config["batch"], about["rows"]))
            books = torch.tensor([list(long.text(row).text[config["within"] :]) for row in rows], device=device)
            texts = [short.text((row + config["rows"] // 2) % config["rows"]) for row in rows]  # of other books
            fresh, state = torch.tensor([list(text.text) for text in texts], device=device), None
            for last, stop in pairwise([0, *about["read"]]):
                for part in books[:, last:stop].split(piece, dim=1) if stop > last else ():
                    _, state = model(part, state)
                _, after = model(fresh, state)
                found[stop] += [sum(hits) for hits in recalled(model, after, [t.facts for t in texts], config["ask"])]
        return {"fresh": [{"bytes": stop, **shares([(hit, 1) for hit in hits])} for stop, hits in found.items()]}

    asked = {**about, **size, "seed": config["seed"], "weights": weights}
    return parts.kept(folder / f"{name}-fresh.json", asked, make)["fresh"]


@torch.no_grad()
def read_and_ask(
    model, some: list[PlantedText], stops: list[int], config, device, found: dict, all_facts=False
) -> None:
    """Reads a batch of texts to each stop in turn and asks there; adds (facts, right) of each row to `found[stop]`."""
    tokens = torch.tensor([list(text.text) for text in some], device=device)
    state = None
    for last, stop in pairwise([0, *stops]):
        began = time.perf_counter()
        for piece in tokens[:, last:stop].split(config["piece"], dim=1):
            _, state = model(piece, state)
        seconds = time.perf_counter() - began
        facts = [text.read_by(stop) if all_facts else list(text.first_facts) for text in some]
        right = recalled(model, state, facts, config["ask"])
        here = found.setdefault(stop, {"rows": [], "state_bytes": state.nbytes // len(some), "seconds": 0.0})
        here["rows"] += zip(facts, right, strict=True)
        here["seconds"] += seconds


def index_by(config: dict) -> dict:
    """The same bytes in an index on disk, one a text, asked the same questions: what it answers and weighs."""
    first: dict = {}
    row = 0
    for group in config["groups"]:
        for text in (text for some in texts(config, group, row) for text in some):
            with tempfile.TemporaryDirectory() as private, Index(Path(private) / "shelf.db") as index:
                for last, stop in pairwise([0, *stops(config, group)]):
                    index.add(text.book, text.text[last:stop])
                    right = [index.fact(fact.key) == fact.answer for fact in text.first_facts]
                    here = first.setdefault(stop, {"rows": [], "disk": []})
                    here["rows"].append((text.first_facts, right))
                    here["disk"].append(index.nbytes)
        row += group["rows"]
    return {"first": [scored(at, some) for at, some in first.items()]}


# -- what is made of it ------------------------------------------------------------------------------------------------
def scored(at: int, some: dict) -> dict:
    """Recall of all rows together after `at` bytes, with the state's bytes and the mean age of the facts."""
    by_row = [(sum(right), len(right)) for _, right in some["rows"]]
    age = np.mean([fact.age(at) for facts, _ in some["rows"] for fact in facts])
    more = {"disk_bytes": round(np.mean(some["disk"]))} if "disk" in some else {}
    if "state_bytes" in some:
        more = {"state_bytes": some["state_bytes"], "seconds": round(some["seconds"], 2)}
    return {"bytes": at, "age": round(age), **more, **shares(by_row), "right_by_row": [right for right, _ in by_row]}


def by_age(at: int, some: dict) -> list[dict]:
    """Recall by class of age, over all rows."""
    found = []
    for low, high in pairwise(AGES):
        by_row = []
        for facts, right in some["rows"]:
            inside = [hit for fact, hit in zip(facts, right, strict=True) if low <= fact.age(at) < high]
            by_row += [(sum(inside), len(inside))] if inside else []
        if by_row:
            found.append({"from": low, "to": high, **shares(by_row)})
    return found


def shares(by_row: list[tuple[int, int]], draws: int = 2000) -> dict:
    """Right of asked over rows of (right, asked), with the wider of Wilson's interval and a bootstrap of the rows."""
    right, asked = (sum(column) for column in zip(*by_row, strict=True))
    counts = np.array(by_row)
    drawn = counts[np.random.default_rng(0).integers(len(counts), size=(draws, len(counts)))].sum(1)
    lows, highs = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    low, high = wilson(right, asked)
    return {
        "asked": asked,
        "right": right,
        "accuracy": round(right / asked, 4),
        "low": round(min(low, float(lows)), 4),
        "high": round(max(high, float(highs)), 4),
    }
