"""Chunk size and the optimizer inside: recall of pairs by models whose memory is written in chunks, by SGD or by Muon.

A memory's chunk decides at which weights the gradients of its tokens are taken (nl_course/memories/titans). Every model
here is one layer around the same memory, a matrix per head (memories/ablations/inner_muon.py). Models differ in the
chunk that they are trained with and in what writes it: `sgd`, the sum of the gradients, which is Titans without
momentum, or `muon`, the same sum orthogonalized, as LaCT does (arXiv 2505.23884).

Each model is asked with the chunk that it was trained with (the fair comparison), and with the other sizes too: the
same weights, read by another algorithm. For that its largest step stays what it was.

The task is multi-query recall with fresh pairs (tasks/recall.py). The protocol is that of protocol.py: a search of the
rate for each model, equal steps, three seeds. Tried first, 400 steps with batches of 16: models that differed in their
seed alone recalled 34 to 63 % of 8 pairs (SGD, chunks of 4), and 20 and 37 % (Muon, chunks of 4). So batches have 32
rows, and there are 600 steps. A part is (inner optimizer, chunk, seed):

    nl-course record chunks                          everything that is missing
    python -m nl_course.record.chunks muon 32 0      one part
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from nl_course.errors import check_choice
from nl_course.memories.ablations.inner_muon import INNER_OPTIMIZERS, InnerMuon, InnerMuonConfig
from nl_course.model import LanguageModel
from nl_course.record import parts
from nl_course.record.protocol import Comparison, Trial, settled
from nl_course.record.recipe import Part, make_part, selected
from nl_course.record.seeds import difference, over_seeds
from nl_course.seeding import seeded
from nl_course.tasks.recall import accuracy, mqar
from nl_course.training import TrainingConfig

ASKED_SEED = 10**9  # of the rows that are asked; training rows have seeds far below
UNITS = (
    "`recall`: the share of right answers, each seed's, their mean and Student's 95 % interval; `read_with` is the "
    "chunk that the model reads with, `chunk` the one it was trained with. `less`: Muon's share less SGD's, both "
    "trained and read with that chunk, seed by seed. rate: the best of `search`, whose runs are from a seed of its own"
)


class Chunks(Comparison):
    """Recall by chunk size and inner optimizer. A part is (inner optimizer, chunk, seed)."""

    name = "chunks"

    def trial(self, rate: float, seed: int, inner: str, chunk: int) -> Trial:
        """How a model is trained: all alike, but for its chunk and for what writes it."""
        check_choice("inner optimizer", inner, INNER_OPTIMIZERS)
        options = {**self.config["options"], "chunk": chunk}
        spec = {"memory": "titans", "options": options}
        shape = parts.sized(self.config["shared"], f"{inner}, chunk {chunk}", spec)
        training = TrainingConfig(**self.config["training"], learning_rate=rate, seed=seed)
        pairs = self.config["pairs"]
        data = parts.recall_rows(pairs, shape.vocab, training)
        return Trial(shape, training, data, {"pairs": pairs, "inner": inner}, partial(write_with, inner=inner))

    def identity(self, inner: str, chunk: int, seed: int) -> dict[str, Any]:
        """The training, with the rate that was found, and what is asked."""
        about = {name: self.config[name] for name in ("asked", "read_with", "curve_every")}
        return {**self.reported(inner, chunk, seed).identity(), **about}

    def make(self, folder: Path, inner: str, chunk: int, seed: int) -> Part:
        """Trains a model, and asks it with every size of chunk."""
        shape = self.reported(inner, chunk, seed).shape
        model, run = self.trained(folder, inner, chunk, seed)
        asked = []
        for question in self.config["asked"]:
            shares = {}
            for size in self.config["read_with"]:
                with reading_with(model, size):
                    shares[str(size)] = ask(model, shape.vocab, question, self.device)
            asked.append(shares)
        print(f"{inner}, chunk {chunk}, seed {seed}: {asked}", flush=True)
        return {
            **parts.about_model(shape, model),
            "seed": seed,
            "training_seconds": round(run.metrics[-1]["seconds"], 1),
            "made": self.provenance("commit", "recorded"),
            "settled": settled(run.metrics),
            "curve": parts.curve(run, self.config["curve_every"]),
            "asked": asked,
        }

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing; writes `runs/chunks.json`."""
        chunks, seeds = self.config["chunks"], self.config["seeds"]
        models = [(inner, chunk) for inner in INNER_OPTIMIZERS for chunk in chunks]
        made = self.searched_and_made([(*model, seed) for model in models for seed in seeds])
        by_model = {}
        for model in models:
            by_model[model] = [made[*model, seed] for seed in seeds]
        results = {
            "units": UNITS,
            "seeds": seeds,
            "chunks": chunks,
            "models": [self.described(*model, by_model[model]) for model in models],
            "less": [self.compared(chunk, by_model) for chunk in chunks],
        }
        return [self.recording.write(assets / "runs" / "chunks.json", results)]

    def described(self, inner: str, chunk: int, of_seeds: list[Part]) -> dict[str, Any]:
        """One model: its search, its runs, and for each question its recall with every size of chunk."""
        recall = []
        for number, question in enumerate(self.config["asked"]):
            by_chunk = []
            for size in self.config["read_with"]:
                by_chunk.append({"read_with": size, **over_seeds(shares(of_seeds, number, size))})
            recall.append({**question, "by_chunk": by_chunk})
        of_all = selected(of_seeds[0], "options", "hidden", "parameters")
        runs = [selected(part, "seed", "training_seconds", "made", "settled", "curve") for part in of_seeds]
        search = self.search(inner, chunk)
        return {"inner": inner, "chunk": chunk, **of_all, "search": search, "recall": recall, "runs": runs}

    def compared(self, chunk: int, by_model: dict[tuple[str, int], list[Part]]) -> dict[str, Any]:
        """For each question Muon's recall less SGD's, seed by seed, both with that chunk."""
        gains = []
        for number, question in enumerate(self.config["asked"]):
            muon, sgd = (shares(by_model[inner, chunk], number, chunk) for inner in ("muon", "sgd"))
            gains.append({**question, **difference(muon, sgd)})
        return {"chunk": chunk, "gains": gains}


def write_with(model: LanguageModel, inner: str) -> None:
    """Puts a memory that is written by `inner` into the place of each of the model's, with the same weights."""
    for layer in model.layers:
        before = layer.memory
        config = InnerMuonConfig(**asdict(before.config), inner_optimizer=inner)
        with seeded(0):  # so that the caller's random numbers stay: these weights are replaced at once
            layer.memory = InnerMuon(config)
        layer.memory.load_state_dict(before.state_dict())


@contextmanager
def reading_with(model: LanguageModel, chunk: int) -> Iterator[None]:
    """The model's memories with another chunk, and with the largest step that they were trained with, until the `with`
    ends. For texts read from their beginning: a state belongs to one chunk."""
    before = [layer.memory.neural.config for layer in model.layers]
    for layer, config in zip(model.layers, before, strict=True):
        layer.memory.neural.config = replace(config, chunk=chunk, max_step=config.largest_step)
    try:
        yield
    finally:
        for layer, config in zip(model.layers, before, strict=True):
            layer.memory.neural.config = config


def ask(model: LanguageModel, vocab: int, question: dict[str, Any], device: str = "cpu") -> float:
    """The share of right answers to rows of one kind, the same for every model."""
    (found,) = accuracy(model, mqar(**question, vocab=vocab, seed=ASKED_SEED), device=device)
    return round(found.right / found.asked, 4)


def shares(of_seeds: list[Part], question: int, read_with: int) -> list[float]:
    """Each seed's share of right answers to a question, read with that chunk. (JSON's names are strings.)"""
    return [part["asked"][question][str(read_with)] for part in of_seeds]


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `runs/chunks.json`."""
    return Chunks(device, quick, assets).run(assets)


if __name__ == "__main__":
    make_part(Chunks)
