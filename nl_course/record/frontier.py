"""The frontier: recall against the bytes that a memory keeps, every point a small model trained and asked here.

Within a size all models have the same width and as many parameters (the MLPs are as wide as it takes), and read the
same rows of multi-query recall with fresh pairs (tasks/recall.py), step for step. Then each is asked about more pairs
than it was taught with, in longer texts, and in the published form, in which keys stand in the filler too. The bytes of
its state are counted after a text of the evaluated length.

Seven memories are trained at every size, the others of the course at the middle one. Every model has a short
convolution: the memory's own, or one before it (Zoology gives every model one too). TTT-E2E's fast MLP and HOPE's level
learn the next token of what is read: a value after its key is one, so that a pair gets into their weights at the end of
its chunk, and not before. "hope-at-rest" is the same HOPE with a level that never moves. Results that contradict the
papers are kept as they came out.

The protocol is that of protocol.py: each memory at the rate that its own search found (at the middle size, from a seed
that is not reported), the same steps for all, three seeds (five of linear attention, whose recall in long texts differs
most from seed to seed). Each run says whether its loss had settled by then.

Batching the seeds of a model (torch.func.vmap over stacked weights) was measured and does not pay: on one core a step
of three seeds together took 1.25 to 1.45 times as long as three steps apart (attention, linear, gated-delta, ttt-linear
and titans).

A part, one memory of one size from one seed, is kept as soon as it is done. What is asked may change without training
anew. Started twice, the recording uses two cores:

    nl-course record frontier                                        everything that is missing, the searches first
    nl-course record frontier --device cuda                          the sizes of a GPU
    python -m nl_course.record.frontier ttt-linear middle 0 1        two parts
    python -m nl_course.record.frontier ttt-linear search 0.005      one run of a search
"""

import sys
from pathlib import Path
from typing import Any

from nl_course.errors import check_choice
from nl_course.model import LanguageModel
from nl_course.record import parts
from nl_course.record.protocol import Comparison, Trial, settled
from nl_course.record.recipe import Part, selected
from nl_course.record.seeds import reach
from nl_course.record.sizes import changed
from nl_course.tasks.needle_scores import wilson
from nl_course.tasks.recall import accuracy, mqar
from nl_course.training import TrainingConfig

UNITS = (
    "state in bytes, one row, measured on its tensors after a text of that length; `formula` the same by "
    "the memory's own formula. recall: the share of `questions` answered rightly, `by_seed` and the mean of the "
    "seeds; low and high hold 95 of 100: Student's t over the seeds where there are more than one, else Wilson's "
    "over the questions. power: of the law that gaps are drawn from, 1 is uniform. filler: `any` is the published "
    "form, with keys among what stands between the questions (tasks/recall.py), which no model was taught. rate: the "
    "best of `search`, whose runs are from a seed of its own. settled: of each run the mean loss of the last tenth of "
    "its steps and of the tenth before, in nats an answer"
)

OF_RUNS = ("seed", "training_seconds", "made", "curve", "settled")  # of a point's runs, what is kept of each by itself


class Frontier(Comparison):
    """Recall against bytes of state. A part is (model, size, seed)."""

    name = "frontier"

    def trial(self, rate: float, seed: int, name: str, size: str) -> Trial:
        """A model of a size, taught recall at a rate from a seed."""
        shape = shape_of(self.config, name, size)
        training = training_of(self.config, size, rate, seed)
        data = parts.recall_rows(self.config["pairs"], shape.vocab, training)
        return Trial(shape, training, data, taught={"pairs": self.config["pairs"]})

    def searched_at(self, name: str, size: str) -> tuple[str, str]:
        """A memory's rate is searched at one size, where the config names one, and used at all."""
        return name, self.config["search"].get("size", size)

    def identity(self, name: str, size: str, seed: int) -> dict[str, Any]:
        """The training, with the rate that was found, and what is asked."""
        return {**self.reported(name, size, seed).identity(), **selected(self.config, "asked", "curve_every")}

    def make(self, folder: Path, name: str, size: str, seed: int) -> Part:
        """Trains a model on recall and asks it what all are asked."""
        shape = shape_of(self.config, name, size)
        model, run = self.trained(folder, name, size, seed)
        answers = [ask(model, shape.vocab, question, self.device) for question in self.config["asked"]]
        seconds = round(run.metrics[-1]["seconds"], 1)
        shares = {f"{a['pairs']}@{a['length']}": round(a["right"] / a["questions"], 2) for a in answers}
        print(f"{name}, {size}, seed {seed}: {model.parameter_count():,} parameters, {seconds} s, {shares}", flush=True)
        return {
            "seed": seed,
            "model": shape.to_dict(),
            "path": parts.path_of(model),
            "hidden": parts.hidden_of(shape),
            "parameters": model.parameter_count(),
            "training_seconds": seconds,
            "made": self.provenance("commit", "recorded", "device"),
            "curve": parts.curve(run, self.config["curve_every"]),
            "settled": settled(run.metrics),
            "asked": answers,
        }

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing; writes `runs/frontier.json`."""
        points_wanted = grid(self.config)
        keys = [(name, size, seed) for name, size, seeds in points_wanted for seed in seeds]
        # First seeds first: an early look at every model.
        made = self.searched_and_made(sorted(keys, key=lambda key: key[2]))
        points = []
        for name, size, seeds in points_wanted:
            of_seeds = [made[name, size, seed] for seed in seeds]
            points.append(point(name, size, of_seeds, self.search(name, size), self.kept_of_runs()))
        results = {"units": UNITS, "sizes": self.config["sizes"], "points": points}
        return [self.recording.write(assets / "runs" / f"{self.name}.json", results)]

    def kept_of_runs(self) -> tuple[str, ...]:
        """What the recording keeps of each run by itself."""
        return OF_RUNS


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `runs/frontier.json`."""
    return Frontier(device, quick, assets).run(assets)


def grid(config: dict[str, Any]) -> list[tuple[str, str, list[int]]]:
    """(memory, size, seeds) of every point, small sizes first."""
    points = []
    for size in config["sizes"]:
        for name, model in config["models"].items():
            if size in model["sizes"]:
                points.append((name, size, model["seeds"]))
    return points


def shape_of(config: dict[str, Any], name: str, size: str) -> parts.Shape:
    """The model of a point. A model's `by_size` has what differs from size to size, such as the window."""
    about = {**config["shared"], **config["sizes"][check_choice("size", size, config["sizes"])]}
    model = config["models"][check_choice("model", name, config["models"])]
    return parts.sized(about, name, changed(model["spec"], model.get("by_size", {}).get(size, {})))


def training_of(config: dict[str, Any], size: str, rate: float, seed: int) -> TrainingConfig:
    """How the models of a size are trained, at a rate."""
    of_size = config["sizes"][size].get("training", {})
    return TrainingConfig(**{**config["training"], **of_size, "learning_rate": rate, "seed": seed})


def ask(model: LanguageModel, vocab: int, question: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Right answers to rows of one kind, the same for every model, and the bytes kept after one of them."""
    rows = {key: question[key] for key in ("rows", "length", "pairs", "power", "filler") if key in question}
    (share,) = accuracy(model, mqar(**rows, vocab=vocab, seed=10**9), device=device)
    return {
        **rows,
        "questions": share.asked,
        "right": share.right,
        "bytes": parts.state_after(model, question["length"], device)["bytes"],
        "formula": model.state_bytes(question["length"]),
    }


# -- a point of the frontier: the seeds together -----------------------------------------------------------------------
def point(
    name: str, size: str, made: list[Part], search: dict[str, Any], of_runs: tuple[str, ...] = OF_RUNS
) -> dict[str, Any]:
    """The parts of one memory and size as one point with its config, its search, what was asked of it, and of each run
    what `of_runs` names."""
    by_question = zip(*(part["asked"] for part in made), strict=True)
    return {
        "memory": name,
        "size": size,
        "parameters": made[0]["parameters"],
        "hidden": made[0]["hidden"],
        "seeds": [part["seed"] for part in made],
        "model": made[0]["model"],
        "path": made[0]["path"],
        "rate": search["rate"],
        "search": search,
        "asked": [pooled(rows) for rows in by_question],
        "runs": [selected(part, *of_runs) for part in made],
    }


def pooled(rows: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The same questions to every seed: each one's share, their mean, and a 95 % interval."""
    first = rows[0]
    shares = [row["right"] / row["questions"] for row in rows]
    mean = sum(shares) / len(shares)
    if len(shares) == 1:
        interval = "questions"
        low, high = wilson(first["right"], first["questions"])
    else:
        interval = "seeds"
        half_width = reach(shares)
        low, high = max(0.0, mean - half_width), min(1.0, mean + half_width)
    about = ("pairs", "length", "power", "filler", "questions", "bytes", "formula")
    return {
        **{key: first[key] for key in about if key in first},
        "by_seed": [round(share, 4) for share in shares],
        "mean": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "interval": interval,
    }


if __name__ == "__main__":
    which, of_size, *numbers = sys.argv[1:]
    recipe = Frontier()
    for number in numbers:
        if of_size == "search":
            recipe.searches.part(*recipe.searched_at(which, of_size), float(number))
        else:
            recipe.part(which, of_size, int(number))
