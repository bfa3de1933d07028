"""A case for each mechanism: a task that a model learns with it and not, or not as well, without it.

A case has a task and two or more arms, models that differ in one thing. All are trained by the outer loop from a
random start, by the protocol of every comparison (protocol.py): equal parameters, a search of the rate for each arm,
equal steps, three seeds. What is reported is the first arm's score less another arm's, seed by seed, with its interval.

    momentum     which event counted is said after it (tasks/events.py, `aftermath`); momentum off
    retention    a new day, and nothing said before holds (`new_day`), asked after as many days as the rows of the
                 training had, and after 16 times as many; retention off
    depth        more pairs than any row of the training had (tasks/recall.py), each written once; TTT's inner model
                 with two layers and with one. A third arm is one layer again, so wide that it keeps as many bytes
    self-modification    values are stored under names, and asked by the keys that the names stand for in this row
                 (tasks/aliases.py); a memory of HOPE's whose keys move, and the plain rung with fixed projections
    signs        in which order do three things stand after each exchange of two (tasks/formal.py)? A sign must be
                 turned again and again. HOPE's memories, which make their own targets, with steps below 1, and the
                 plain rung. A third arm is the plain rung with steps up to 2, which can turn a sign by itself
    levels       an old task, a new one with the same keys, the old one again (tasks/excursion.py); two levels, of
                 which one has a slow clock or both the fast one. A third arm is one level of both their widths
    surprise     facts are told again and again, and now and then one changes (`retold`). How well does surprise, the
                 norm of the gradient that the memory takes, tell a changed value from a known one? The other arm is
                 the same model before its training

A part, one arm of one case from one seed, is kept as soon as it is done:

    nl-course record mechanisms                                everything that is missing
    python -m nl_course.record.mechanisms momentum on 0        one part
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.nn.functional import cross_entropy

from nl_course.errors import check_choice
from nl_course.memories import Trace
from nl_course.model import LanguageModel
from nl_course.record import parts
from nl_course.record.protocol import Comparison, Trial, settled
from nl_course.record.recipe import Part, make_part, selected
from nl_course.record.seeds import difference, over_seeds
from nl_course.seeding import seeded
from nl_course.tasks.aliases import aliases
from nl_course.tasks.events import CHANGED, FIRST, KNOWN, aftermath, new_day, retold
from nl_course.tasks.excursion import excursion
from nl_course.tasks.formal import FormalTask, formal_accuracy
from nl_course.tasks.recall import mqar
from nl_course.training import IGNORED, Data, TrainingConfig

ASKED_SEED = 10**9  # of the rows that are asked; training rows have seeds far below
MODEL = ("memory", "options", "hidden", "parameters", "state")  # what all seeds of an arm share
UNITS = (
    "`score` of an arm: each seed's value, their mean, and Student's 95 % interval. `less`: the first arm's score less "
    "that arm's, seed by seed, likewise. Scores are shares of right answers, but for `surprise`: there the chance that "
    "a new token has more surprise than a known one (the area under the ROC curve; 0.5 is none)"
)

Rows = Callable[..., tuple[Tensor, Tensor]]  # (rows, seed=..., **settings) -> tokens, targets


# -- the cases ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """A task. `data` makes step -> (inputs, targets) from what is taught (JSON) and the training config. `ask` returns
    a model's score, and more if it likes, for one entry of `asked`."""

    data: Callable[[dict[str, Any], TrainingConfig], Data]
    ask: Callable[[LanguageModel, dict[str, Any], str], dict[str, Any]]


def taught_by(rows: Rows) -> Callable[[dict[str, Any], TrainingConfig], Data]:
    """The `data` of a case whose rows come from a function of the course's tasks: fresh ones at each step."""

    def data(taught: dict[str, Any], training: TrainingConfig) -> Data:
        """The rows of every step, with a seed that no other step of the training shares."""
        return lambda step: rows(training.batch_size, **taught, seed=training.seed * 10**6 + step)

    return data


def asked_by(rows: Rows) -> Callable[[LanguageModel, dict[str, Any], str], dict[str, Any]]:
    """The `ask` of such a case: the share of right answers. A question has the settings of the rows and `rows`, how
    many of them."""

    @torch.no_grad()
    def ask(model: LanguageModel, question: dict[str, Any], device: str) -> dict[str, Any]:
        """Asks the question in pieces of 64 rows; gives the share of right answers and how many were asked."""
        settings = dict(question)
        tokens, targets = rows(settings.pop("rows"), **settings, seed=ASKED_SEED)
        chosen = []
        for piece in tokens.split(64):
            logits, _ = model(piece.to(device))
            chosen.append(logits.argmax(-1).cpu())
        scored = targets != IGNORED
        right = (torch.cat(chosen) == targets)[scored]
        return {"score": round(right.double().mean().item(), 4), "questions": right.numel()}

    return ask


def recall(rows: int, pairs: int, length: int, vocab: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Multi-query recall (tasks/recall.py): tokens and targets, (rows, length) each, scored at the questions."""
    task = mqar(rows, length, pairs, vocab, seed=seed)
    return task.tokens, task.targets.masked_fill(~task.mask, IGNORED)


def recall_taught(taught: dict[str, Any], training: TrainingConfig) -> Data:
    """Recall with fresh pairs at each step; steps take the counts of `taught["pairs"]` in turn."""
    return parts.recall_rows(taught["pairs"], taught["vocab"], training)


def signs_taught(taught: dict[str, Any], training: TrainingConfig) -> Data:
    """Exchanges of two of three things, fresh strings at each step."""
    return FormalTask(taught["group"], tuple(taught["lengths"]), taught["letters"], training.batch_size, training.seed)


def ask_signs(model: LanguageModel, question: dict[str, Any], device: str) -> dict[str, Any]:
    """The share of places with the right order, in strings of `length` exchanges."""
    lengths = (question["length"], question["length"])
    task = FormalTask(question["group"], lengths, question["letters"], question["rows"])
    (counts,) = formal_accuracy(model, task, [lengths], steps=1)
    return {"score": round(counts.by_place, 4), "questions": counts.positions}


def retold_rows(rows: int, **settings: Any) -> tuple[Tensor, Tensor]:
    """Tokens and targets of `retold`."""
    tokens, targets, _ = retold(rows, **settings)
    return tokens, targets


@torch.no_grad()
def ask_surprise(model: LanguageModel, question: dict[str, Any], device: str) -> dict[str, Any]:
    """How well the first layer's surprise tells changed values from known ones: `score`, the area under the ROC curve.

    Surprise is the norm of the token's whole gradient, all heads together. Beside it stand the mean surprise of each
    kind of value, and the same area for values told for the `first` time and for the model's own `loss` at a value."""
    settings = dict(question)
    tokens, targets, kind = retold(settings.pop("rows"), **settings, seed=ASKED_SEED)
    trace = Trace(only=["surprise"])
    logits, _ = model(tokens.to(device), None, trace)
    surprise = trace["layers.0.surprise"].norm(dim=-1).cpu()  # (rows, length)

    # The loss of a value is the loss at the key before it.
    loss = cross_entropy(logits.cpu().mT, targets, ignore_index=IGNORED, reduction="none")  # (rows, length)
    loss = loss.roll(1, dims=1)
    means = {}
    for name, which in (("changed", CHANGED), ("known", KNOWN), ("first", FIRST)):
        means[name] = round(surprise[kind == which].mean().item(), 4)
    return {
        "score": above(surprise[kind == CHANGED], surprise[kind == KNOWN]),
        "first": above(surprise[kind == FIRST], surprise[kind == KNOWN]),
        "loss": above(loss[kind == CHANGED], loss[kind == KNOWN]),
        "surprise": means,
        "questions": int((kind == CHANGED).sum()),
    }


def above(new: Tensor, known: Tensor) -> float:
    """The chance that one of `new` is greater than one of `known`, equal ones counted half: the area under the ROC
    curve, which is Mann and Whitney's U divided by the number of pairs."""
    u = mannwhitneyu(new.double().numpy(), known.double().numpy()).statistic
    return round(float(u) / (len(new) * len(known)), 4)


CASES = {
    "momentum": Case(taught_by(aftermath), asked_by(aftermath)),
    "retention": Case(taught_by(new_day), asked_by(new_day)),
    "depth": Case(recall_taught, asked_by(recall)),
    "self-modification": Case(taught_by(aliases), asked_by(aliases)),
    "signs": Case(signs_taught, ask_signs),
    "levels": Case(taught_by(excursion), asked_by(excursion)),
    "surprise": Case(taught_by(retold_rows), ask_surprise),
}

TRIED = {  # the search that was made for a case, in two sentences
    "momentum": (
        "Tried first, on one seed: the same text with a value of its own in each event, of which a model without "
        "momentum recalled .996 to .999 after 1,000 steps at two rates, since it is enough to know which values count "
        "and which two belong to the key. So each value stands in an event that counts and in one that does not; with "
        "that it recalled .57 after 600 steps, and .998 with momentum."
    ),
    "retention": (
        "Tried first, on one seed each: rubbish before the pairs that are asked (16 pairs: 1.0 with retention and .997 "
        "without; 24 pairs of 48 keys: .26 and .84 after 400 steps), one change of day (1.0 and .985), four days of up "
        "to 8 pairs (.90 both after 400 steps), a memory of two layers (.67 and .74 after 400 steps). In short rows "
        "the delta rule overwrites what is old by itself; the difference grows with the days, and values that change "
        "in chunks of 16 tokens were not tried to the end."
    ),
    "surprise": (
        "Tried first, on one seed each for 250 steps: passages of prose shown three times with one byte replaced, "
        "where training made surprise a worse sign of the new byte (area .55, and .68 before) while the loss told it "
        "apart (.85); and random phrases, which were not learned (.67, and .70 before). The text that is recorded is "
        "the third, and the first for it."
    ),
    "depth": (
        "The case comes from the frontier, where TTT-MLP recalled 24 pairs better than TTT-Linear from every seed, "
        "with seven times the bytes. One more task was tried on one seed: 16 pairs taught from the start at width 32, "
        "of which neither recalled more than a sixth after 300 steps."
    ),
    "self-modification": (
        "Tried first, on one seed: names, keys and values as tokens of their own behind a convolution of width 4, with "
        "2 to 6 pairs, 300 to 1,000 steps, all memories or the keys alone moving, towards their own target or a shared "
        "one; no model got beyond guessing among the values of the row. With one token for each event both kinds that "
        "were tried learned it, the keys alone in about half as many steps as all memories; after 600 steps the first "
        "reported seed had not settled (.81 with moving keys, .42 without), so that there are 1,000. In these the "
        "plain rung nearly catches up, and its loss still falls: what is shown is a faster learner, not a better "
        "memory."
    ),
    "signs": (
        "The case comes from the recording of state tracking, where these memories learned exchanges from two of three "
        "seeds, at a rate of .01. There and in trials with the three reported seeds, 900 steps learned it from none at "
        ".005, from two at .01 (from the third not after 2,000 steps either), and from all three at .02: the "
        "rate decides, so that the rates searched here lie a factor of 4 apart."
    ),
    "levels": (
        "Tried on one seed at one rate: 4 and 8 keys, levels of 7 to 64 units, in a chain and side by side, an old "
        "task told two to eight times, and after it one new task, two, or values that change at every mention; with "
        "wide levels and few keys a single clock kept the old task too. One level of both widths kept it better than "
        "two levels with two clocks in two of three layouts, and as well in the third, which is the one recorded."
    ),
}


# -- the recipe --------------------------------------------------------------------------------------------------------
class Mechanisms(Comparison):
    """A case for each mechanism. A part is (case, arm, seed)."""

    name = "mechanisms"

    def trial(self, rate: float, seed: int, case: str, arm: str) -> Trial:
        """How an arm is trained: as the config says for all, and as it says for the case."""
        about = self.about(case)
        about_arm = about["arms"][check_choice("arm", arm, about["arms"])]
        shape = parts.sized(about["shared"], f"{case}, {arm}", about_arm["spec"])
        settings = {**self.config["training"], **about.get("training", {})}
        training = TrainingConfig(**settings, learning_rate=rate, seed=seed)
        taught = {"case": case, **about["taught"]}
        return Trial(shape, training, CASES[case].data(about["taught"], training), taught)

    def about(self, case: str) -> dict[str, Any]:
        """What the config says of a case."""
        check_choice("case", case, CASES)
        return self.config["cases"][check_choice("case", case, self.config["cases"])]

    def rates(self, case: str, arm: str) -> list[float]:
        """The rates of the case, where it has its own."""
        return self.about(case).get("rates", self.config["search"]["rates"])

    def is_untrained(self, case: str, arm: str) -> bool:
        """Whether the arm is the first one as its training begins."""
        return self.about(case)["arms"][arm].get("untrained", False)

    def searched_at(self, case: str, arm: str) -> tuple[str, str]:
        """Its own search; an untrained arm has the rate of the first, which it never uses."""
        if self.is_untrained(case, arm):
            arm = next(iter(self.about(case)["arms"]))
        return case, arm

    def identity(self, case: str, arm: str, seed: int) -> dict[str, Any]:
        """How the arm is trained and what it is asked."""
        return {
            **self.reported(case, arm, seed).identity(),
            "untrained": self.is_untrained(case, arm),
            "asked": self.about(case)["asked"],
            "curve_every": self.config["curve_every"],
            "device": self.device,
        }

    def make(self, folder: Path, case: str, arm: str, seed: int) -> Part:
        """Trains one arm and asks it."""
        shape = self.reported(case, arm, seed).shape
        part = {"seed": seed, "made": self.provenance("commit", "recorded")}
        if self.is_untrained(case, arm):
            with seeded(seed):
                model = parts.build(shape)
                parts.begin(model)
            model.to(self.device)
        else:
            model, run = self.trained(folder, case, arm, seed)
            part |= {
                "training_seconds": round(run.metrics[-1]["seconds"], 1),
                "end": settled(run.metrics),
                "curve": parts.curve(run, self.config["curve_every"]),
            }
        asked = [CASES[case].ask(model, question, self.device) for question in self.about(case)["asked"]]
        print(f"{case}, {arm}, seed {seed}: {[row['score'] for row in asked]}", flush=True)
        state = parts.state_after(model, self.config["state_tokens"], self.device)
        return {**parts.about_model(shape, model), "state": state, **part, "asked": asked}

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing; writes `runs/mechanisms.json`."""
        keys = []
        for case in self.config["cases"]:
            for arm in self.about(case)["arms"]:
                keys += [(case, arm, seed) for seed in self.config["seeds"]]
        made = self.searched_and_made(keys)

        cases = {}
        for case, about in self.config["cases"].items():
            arms = {}
            for arm in about["arms"]:
                arms[arm] = [made[case, arm, seed] for seed in self.config["seeds"]]
            cases[case] = {
                **selected(about, "shared", "taught"),
                "tried": TRIED.get(case),
                "arms": {arm: self.described(case, arm, seeds) for arm, seeds in arms.items()},
                "asked": compared(about["asked"], arms),
            }
        results = {"units": UNITS, "seeds": self.config["seeds"], "cases": cases}
        return [self.recording.write(assets / "runs" / "mechanisms.json", results)]

    def described(self, case: str, arm: str, seeds: list[Part]) -> dict[str, Any]:
        """One arm: its model, the search for its rate, and its runs."""
        searched = {} if self.is_untrained(case, arm) else {"search": self.search(case, arm)}
        model = {key: value for key, value in seeds[0].items() if key in MODEL}
        runs = []
        for part in seeds:
            runs.append({key: part[key] for key in ("seed", "training_seconds", "end", "made", "curve") if key in part})
        return {**model, "spec": self.about(case)["arms"][arm].get("spec"), **searched, "runs": runs}


def compared(questions: list[dict[str, Any]], arms: dict[str, list[Part]]) -> list[dict[str, Any]]:
    """By question: it, each arm's score over the seeds, and the first arm's less each other's, seed by seed."""
    rows = []
    for i, question in enumerate(questions):
        answers, values = {}, {}
        for arm, seeds in arms.items():
            answers[arm] = [part["asked"][i] for part in seeds]
            values[arm] = [answer["score"] for answer in answers[arm]]
        first, *others = values
        rows.append(
            {
                "question": question,
                "score": {arm: over_seeds(scores) for arm, scores in values.items()},
                "less": {arm: difference(values[first], values[arm]) for arm in others},
                "answers": answers,
            }
        )
    return rows


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `runs/mechanisms.json`."""
    return Mechanisms(device, quick, assets).run(assets)


if __name__ == "__main__":
    make_part(Mechanisms)
