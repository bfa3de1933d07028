"""What is still known of the first book: trained models keep reading, and are asked for a fact planted at the start.

The models are those of the recipe `needle`, unchanged, and two more that are trained here with the same curriculum:
attention that keeps its whole cache, without positions and with rotary ones (which fail beyond the lengths trained),
each at the rate that its own search finds (protocol.py).
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
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch

from nl_course.files import asset
from nl_course.model import LanguageModel
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
    recording = Recording("books", config, device)
    folder = parts.parts_folder("books", assets if quick else None)
    written, models = [], {}
    for name, spec in config["models"].items():
        if "train" in spec:
            checkpoint = taught(config, name, folder, device, quick)
            written.append(assets / "checkpoints" / f"{spec['checkpoint']}.safetensors")
            save_model(load_model(checkpoint), written[-1], info={"trained_as": name, **recording.about()})
        else:
            checkpoint = asset(f"checkpoints/{spec['checkpoint']}.safetensors")
        models[name] = read_by(config, name, checkpoint, folder, device)
        models[name]["fresh"] = fresh_by(config, name, checkpoint, folder, device)
        shares = [f"{row['bytes'] >> 10}k {row['accuracy']:.2f}" for row in models[name]["first"]]
        print(f"{name}: {', '.join(shares)}", flush=True)
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
    """A model trained here, by the curriculum, in the size and by the protocol of the recipe `needle`."""
    about = needle.Needle.settings(quick=quick)
    about["models"] = {name: config["models"][name]["train"]}
    teacher = needle.Needle(device, config=about, folder=folder / "taught")
    identity = teacher.reported(name, config["seed"]).identity()
    path = folder / f"{name}-{parts.mark(identity)}.safetensors"

    def make() -> dict:
        """Trains the teacher, stores its weights, and gives the seconds that it took."""
        model, run = teacher.trained(teacher.run_folder(name, config["seed"]), name, config["seed"])
        save_model(model, path)
        return {"seconds": round(run.metrics[-1]["seconds"], 1)}

    parts.kept(folder / f"{name}-taught.json", identity, make)
    return path


# -- what is read ------------------------------------------------------------------------------------------------------
def texts(config: dict, group: dict, first_row: int, every: int | None = None) -> Iterator[list[PlantedText]]:
    """The texts of a group of rows, a batch at a time."""
    about = {key: config[key] for key in ("facts", "within", "rows", "seed")}
    books = PlantedBooks(length=group["bytes"], every=every, packages=tuple(config["shelf"]), **about)
    stop = first_row + group["rows"]
    for start in range(first_row, stop, config["batch"]):
        yield [books.text(row) for row in range(start, min(start + config["batch"], stop))]


def stops(config: dict, group: dict) -> list[int]:
    """The bytes after which a group of rows is asked."""
    return [at for at in config["read"] if at <= group["bytes"]]


def read_by(config: dict, name: str, checkpoint: Path, folder: Path, device: str) -> dict:
    """What one model is after so many bytes, and what it still answers, or what is kept of it."""
    own = {key: value for key, value in config["models"][name].items() if key in ("groups", "piece")}
    config = {**config, **own}
    everywhere = {**config["everywhere"], **config["models"][name].get("everywhere", {})}
    weights = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]

    def make() -> dict:
        """Lets the model read and asks it: by age, of all facts, and under each load."""
        model = load_model(checkpoint, device).eval()
        about = parts.about_model(model.config, model)
        about |= {"conv": model.config.conv, "checkpoint": f"{config['models'][name]['checkpoint']}.safetensors"}
        first: dict = {}
        row = 0
        for group in config["groups"]:
            for some in texts(config, group, row):
                read_and_ask(model, some, stops(config, group), config, device, first)
            row += group["rows"]
        also: dict = {}
        for some in texts(config, everywhere, 0, everywhere["every"]):
            read_and_ask(model, some, stops(config, everywhere), config, device, also, all_facts=True)
        loads = []
        for facts in config["loads"]:
            at = config["within"]
            group = {"rows": config["rows"], "bytes": at}
            load: dict = {}
            for some in texts({**config, "facts": facts}, group, 0):
                read_and_ask(model, some, [at], config, device, load)
            loads.append({"facts": facts, **scored(at, load[at])})
        return about | {
            "load": loads,
            "first": [scored(at, some) for at, some in first.items()],
            "everywhere": [{"bytes": at, "by_age": by_age(at, some)} for at, some in also.items()],
        }

    identity = {**shared(config), "everywhere": everywhere, "weights": weights}
    part = parts.kept(folder / f"{name}-read.json", identity, make)
    return {key: value for key, value in part.items() if key != "mark"}


def fresh_by(config: dict, name: str, checkpoint: Path, folder: Path, device: str) -> list[dict]:
    """After so many bytes of books without a fact: a text of `within` bytes with one, and the question at its end."""
    about = {**config["fresh"], **config["models"][name].get("fresh", {})}
    piece = config["models"][name].get("piece", config["piece"])
    size = {"within": config["within"], "rows": config["rows"], "facts": 1, "packages": tuple(config["shelf"])}
    weights = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]

    @torch.no_grad()
    def make() -> dict:
        """Asks for one fact behind books without any, at each length that was read."""
        model = load_model(checkpoint, device).eval()
        right_at = {stop: [] for stop in about["read"]}  # of each row, how many of its facts were answered
        long = PlantedBooks(length=config["within"] + about["read"][-1], seed=config["seed"], **size)
        short = PlantedBooks(length=config["within"], seed=config["seed"], **size)
        for start in range(0, about["rows"], config["batch"]):
            rows = range(start, min(start + config["batch"], about["rows"]))
            books = torch.tensor([list(long.text(row).text[config["within"] :]) for row in rows], device=device)
            texts = [short.text((row + config["rows"] // 2) % config["rows"]) for row in rows]  # of other books
            facts = [text.facts for text in texts]
            fresh = torch.tensor([list(text.text) for text in texts], device=device)  # (rows, within)
            state = None
            for last, stop in pairwise([0, *about["read"]]):
                if stop > last:
                    for part in books[:, last:stop].split(piece, dim=1):
                        _, state = model(part, state)
                _, after = model(fresh, state)  # on a branch: the state itself keeps reading books
                right_at[stop] += [sum(hits) for hits in recalled(model, after, facts, config["ask"])]
        rows_out = []
        for stop, hits in right_at.items():
            rows_out.append({"bytes": stop, **shares([(hit, 1) for hit in hits])})
        return {"fresh": rows_out}

    asked = {key: value for key, value in size.items() if key != "packages"} | {"shelf": size["packages"]}
    identity = {**about, **asked, "seed": config["seed"], "weights": weights}
    return parts.kept(folder / f"{name}-fresh.json", identity, make)["fresh"]


@torch.no_grad()
def read_and_ask(
    model: LanguageModel,
    some: list[PlantedText],
    stops: list[int],
    config: dict,
    device: str,
    at_stop: dict,
    all_facts: bool = False,
) -> None:
    """Reads a batch of texts to each stop in turn and asks there; `at_stop[stop]` gets (facts, right) of each row."""
    tokens = torch.tensor([list(text.text) for text in some], device=device)  # (rows, bytes)
    state = None
    for last, stop in pairwise([0, *stops]):
        began = time.perf_counter()
        for piece in tokens[:, last:stop].split(config["piece"], dim=1):
            _, state = model(piece, state)
        seconds = time.perf_counter() - began
        facts = [text.read_by(stop) if all_facts else list(text.first_facts) for text in some]
        right = recalled(model, state, facts, config["ask"])
        here = at_stop.setdefault(stop, {"rows": [], "state_bytes": state.nbytes // len(some), "seconds": 0.0})
        here["rows"] += zip(facts, right, strict=True)
        here["seconds"] += seconds


def index_by(config: dict) -> dict:
    """The same bytes in an index on disk, one a text, asked the same questions: what it answers and weighs."""
    first: dict = {}
    row = 0
    for group in config["groups"]:
        for text in chain.from_iterable(texts(config, group, row)):
            with tempfile.TemporaryDirectory() as private, Index(Path(private) / "index.db") as index:
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
    by_row, ages = [], []
    for facts, right in some["rows"]:
        by_row.append((sum(right), len(right)))
        ages += [fact.age(at) for fact in facts]
    size = {}
    if "disk" in some:  # the index
        size = {"disk_bytes": round(np.mean(some["disk"]))}
    elif "state_bytes" in some:  # a model
        size = {"state_bytes": some["state_bytes"], "seconds": round(some["seconds"], 2)}
    return {
        "bytes": at,
        "age": round(np.mean(ages)),
        **size,
        **shares(by_row),
        "right_by_row": [right for right, _ in by_row],
    }


def by_age(at: int, some: dict) -> list[dict]:
    """Recall by class of age, over all rows."""
    classes = []
    for low, high in pairwise(AGES):
        by_row = []
        for facts, right in some["rows"]:
            inside = [hit for fact, hit in zip(facts, right, strict=True) if low <= fact.age(at) < high]
            if inside:
                by_row.append((sum(inside), len(inside)))
        if by_row:
            classes.append({"from": low, "to": high, **shares(by_row)})
    return classes


def shares(by_row: list[tuple[int, int]], draws: int = 2000) -> dict:
    """Right of asked over rows of (right, asked), with the wider of Wilson's interval and a bootstrap of the rows."""
    counts = np.array(by_row)  # (rows, 2)
    right, asked = (int(total) for total in counts.sum(0))
    picks = np.random.default_rng(0).integers(len(counts), size=(draws, len(counts)))
    drawn = counts[picks].sum(1)  # (draws, 2): right and asked of each resampling of the rows
    lows, highs = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    low, high = wilson(right, asked)
    return {
        "asked": asked,
        "right": right,
        "accuracy": round(right / asked, 4),
        "low": round(min(low, float(lows)), 4),
        "high": round(max(high, float(highs)), 4),
    }
