"""The protocol of every comparison: what a recipe does so that its models differ in their memory and in little else.

1. Equal models: within a size all have as many parameters, within `parts.TOLERANCE`, and read the same rows step for
   step. The bytes of state stand beside each score.
2. A rate for each memory: the model is trained once at each of `config["search"]["rates"]`, from a seed that no
   reported run uses. The rate with the lowest loss at the end of training is taken. `at_edge` says that it is the least
   or the largest that was tried, so that a better one may lie beyond. All losses are kept.
3. Training until the loss has settled, or a budget that is the same for all: `settled` says of each run which it was.
4. Several seeds, and an interval over them; two models trained from the same seeds are compared seed by seed
   (`difference` in seeds.py).

    class Frontier(Comparison):
        def trial(self, rate, seed, name, size): ...     how one model is trained: a `Trial`

    recipe.rate(seed, "titans", "middle")                the rate of a reported run, searched first if it has not been
    recipe.search("titans", "middle")                    what the search found, for the recording

Searched runs are parts of the recipe like its others: kept as soon as they are done, and continued where they stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nl_course.errors import CourseError
from nl_course.model import LanguageModel
from nl_course.record import parts
from nl_course.record.parts import settled
from nl_course.record.recipe import Part, Recipe, selected
from nl_course.training import Data, Diverged, Run, TrainingConfig


# -- one run, and the search for its rate ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Trial:
    """One training run: a model, its training, and its data, step -> (inputs, targets). `taught` is what decides the
    data beside the training config, as JSON. `prepare` changes the fresh model before it is trained; what it does must
    be in `taught` too."""

    shape: parts.Shape
    training: TrainingConfig
    data: Data
    taught: dict[str, Any]
    prepare: Callable[[LanguageModel], None] | None = None

    def run(
        self, folder: Path, device: str = "cpu", watch: Callable[[LanguageModel, int], None] | None = None
    ) -> tuple[LanguageModel, Run]:
        """The trained model and its run; a run that was stopped continues from `folder`. `watch` as in
        `parts.trained`. Raises Diverged if the loss stops being a number."""
        return parts.trained(self.shape, self.data, self.training, folder, device, watch=watch, prepare=self.prepare)

    def identity(self) -> dict[str, Any]:
        """All that the trained model depends on, as JSON."""
        return {"model": self.shape.to_dict(), "training": self.training.to_dict(), "taught": self.taught}


class Comparison(Recipe):
    """A recipe that compares trained models by the protocol. `config["search"]` has the `rates` and the `seed`; a
    single rate is taken as it is, without a search.

    Subclasses define `trial`, and where they need to `rates` (of a model that has its own) and `searched_at` (of models
    that take another one's rate). A part's key ends with its seed. Its training run is named by the trial alone: a part
    that is asked more later is not trained again."""

    @cached_property
    def searches(self) -> "Search":
        """The searched runs."""
        return Search(self)

    def trial(self, rate: float, seed: int, *model: Any) -> Trial:
        """How the model under that key (a part's key without its seed) is trained at a rate from a seed."""
        raise NotImplementedError

    def rates(self, *model: Any) -> list[float]:
        """The rates that are tried for that model."""
        return self.config["search"]["rates"]

    def searched_at(self, *model: Any) -> tuple[Any, ...]:
        """The key of the model whose search gives this one its rate: its own, or that of the same memory at another
        size."""
        return model

    def reported(self, *key: Any) -> Trial:
        """How a part of the recording is trained: at the rate that the search found."""
        *model, seed = key
        return self.trial(self.rate(seed, *model), seed, *model)

    def run_folder(self, *key: Any) -> Path:
        """Named by what the trained model depends on, and not by what it is asked."""
        return self.folder / parts.mark(self.reported(*key).identity())

    def trained(self, folder: Path, *key: Any) -> tuple[LanguageModel, Run]:
        """The model of a part and its run; a run that was stopped continues from `folder`."""
        return self.reported(*key).run(folder, self.device)

    def rate(self, seed: int, *model: Any) -> float:
        """The rate of a reported run: the best of the search. Raises CourseError for the seed of the search."""
        search_seed = self.config["search"].get("seed")
        if seed == search_seed:
            raise CourseError(f"seed {seed} serves the search for rates; report runs from other seeds.")
        return self.search(*model)["rate"]

    def search(self, *model: Any) -> dict[str, Any]:
        """What the search found: `rate`, the best; `at_edge`; `seed`; `tried`, each rate with its loss at the end of
        training (None if it stopped being a number), whether that had settled, and its seconds.

        Raises CourseError if no rate's loss stayed a number.
        """
        searched = self.searched_at(*model)
        rates = self.rates(*searched)
        if len(rates) == 1:
            return {"rate": rates[0], "at_edge": False, "seed": None, "tried": []}
        found = self.searches.made([(*searched, rate) for rate in rates])
        numbers = [part for part in found if part["loss"] is not None]
        if not numbers:
            raise CourseError(f"{searched[0]!r} diverges at every rate searched: {', '.join(map(str, rates))}.")
        best = min(numbers, key=lambda part: part["loss"])
        return {
            "rate": best["rate"],
            "at_edge": best["rate"] in (min(rates), max(rates)),
            "seed": self.config["search"]["seed"],
            "tried": [selected(part, "rate", "loss", "settled", "seconds") for part in found],
        }

    def search_keys(self, keys: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The searched runs that parts with these keys need, each once: a model's key and a rate."""
        wanted = []
        for model in dict.fromkeys(self.searched_at(*key[:-1]) for key in keys):
            rates = self.rates(*model)
            if len(rates) > 1:
                wanted += [(*model, rate) for rate in rates]
        return wanted

    def searched_and_made(self, keys: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], Part]:
        """The parts of all keys, by key, made in that order; first of all the searches that they need."""
        self.searches.made(self.search_keys(keys))
        return dict(zip(keys, self.made(keys), strict=True))


class Search(Recipe):
    """The searched runs of a comparison. A part is (*model, rate): trained like a reported one, and asked nothing."""

    def __init__(self, comparison: Comparison):
        self.name = comparison.name
        super().__init__(comparison.device, config=comparison.config, folder=comparison.folder / "search")
        self.comparison = comparison

    def trial(self, *key: Any) -> Trial:
        """How the run is trained."""
        *model, rate = key
        return self.comparison.trial(rate, self.config["search"]["seed"], *model)

    def identity(self, *key: Any) -> dict[str, Any]:
        """The trial."""
        return self.trial(*key).identity()

    def file_name(self, *key: Any) -> str:
        """The model's key and the rate."""
        *model, rate = key
        return self.comparison.file_name(*model, f"rate-{rate:g}")

    def make(self, folder: Path, *key: Any) -> Part:
        """Trains the model at that rate. A run that diverged has a loss of None."""
        trial = self.trial(*key)
        about = {"rate": key[-1], "seed": trial.training.seed, "made": self.provenance("commit", "recorded")}
        try:
            _, run = trial.run(folder, self.device)
        except Diverged:
            print(f"search: {', '.join(map(str, key))}: diverged", flush=True)
            return {**about, "loss": None, "settled": False, "seconds": None}
        end = settled(run.metrics)
        seconds = round(run.metrics[-1]["seconds"], 1)
        print(f"search: {', '.join(map(str, key))}: loss {end['loss']}, {seconds} s", flush=True)
        return {**about, **end, "seconds": seconds}
