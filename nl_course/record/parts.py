"""What recipes that train several models share: models equal in size, starts that suit small ones, parts that are kept.

A part is one model from one seed, trained and measured. See recipe.py for how parts make a recording.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError
from nl_course.files import cache_folder, write_atomically
from nl_course.memories import Memory
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import Level, LevelConfig, NestedConfig, NestedLanguageModel
from nl_course.nested.e2e import e2e_config
from nl_course.roles import param_roles
from nl_course.seeding import seeded
from nl_course.tasks.recall import mqar
from nl_course.training import IGNORED, Data, Run, TrainingConfig, train
from nl_course.training.estimate import parameter_count

# What a recording keeps of each run beside its results.
OF_A_RUN = ("seed", "rate", "settled", "training_seconds", "made", "curve")
TOLERANCE = 0.02  # share by which two models' parameters may differ
TENTH = 0.1  # share of a run's steps over which its loss is averaged
STILL_FALLS = 0.05  # a loss that fell by less than this share over the last tenth has settled
NEAR_ZERO = 0.02  # nats; so has a loss below this, however fast it still falls
Shape = ModelConfig | NestedConfig


# -- models equal in size ----------------------------------------------------------------------------------------------
def sized(about: dict[str, Any], name: str, spec: dict[str, Any]) -> Shape:
    """The model called `name`, with MLPs (or levels) of the width that brings it nearest to `about["parameters"]`.

    `about` has the sizes that all models share: vocab (256 if absent), width, layers, heads. `spec` is a model's own:
    memory, options and conv, and a width, layers or heads that differ. With `levels` (a list of chunks) and `rate` it
    has a continuum memory system after the memory; with `e2e` (further arguments of `e2e_config`) it is a TTT-E2E
    model. Raises CourseError if the rest alone has more parameters, or if the nearest width misses by more than
    TOLERANCE.
    """
    own = dict(spec)
    shared = {"vocab": about.get("vocab", 256)}
    for size in ("width", "layers", "heads"):
        shared[size] = own.pop(size, about[size])
    chunks = own.pop("levels", None)
    rate = own.pop("rate", 0.01)
    e2e = own.pop("e2e", None)

    def shaped(hidden: int) -> Shape:
        """The configuration at one hidden width; everything else is settled."""
        if e2e is not None:
            return e2e_config(**shared, hidden=hidden, **e2e)
        if chunks is None:
            return ModelConfig(**shared, hidden=hidden, **own)
        levels = tuple(LevelConfig(hidden, chunk, rate) for chunk in chunks)
        return NestedConfig(**shared, levels=levels, **own)

    # Parameters grow linearly with the hidden width, so two small models tell how many each unit of width adds.
    wanted = about["parameters"]
    least = parameter_count(shaped(1))
    per_unit = parameter_count(shaped(2)) - least
    hidden = 1 + round((wanted - least) / per_unit)
    if hidden < 1:
        raise CourseError(f"{name!r} alone has {least:,} parameters, more than the {wanted:,} asked for.")
    shape = shaped(hidden)
    count = parameter_count(shape)
    if abs(count / wanted - 1) > TOLERANCE:
        raise CourseError(f"{name!r} would have {count:,} parameters, not {wanted:,}.")
    return shape


def build(shape: Shape) -> LanguageModel:
    """The model of a config, with fresh weights."""
    if isinstance(shape, NestedConfig):
        return NestedLanguageModel(shape)
    return LanguageModel(shape)


def hidden_of(shape: Shape) -> int:
    """The width of the MLPs, or of the levels, that `sized` chose."""
    if isinstance(shape, NestedConfig):
        return shape.levels[0][0].hidden
    return shape.hidden


@torch.no_grad()
def begin(model: LanguageModel) -> None:
    """Draws N(0, 1/inputs) for linear layers, the embedding and the levels; those that write into the residual stream
    are smaller by sqrt(2 layers).

    With N(0, 0.02) a model this narrow spends most of a short run on growing its weights. The memories' own starts
    stay: gates with one number per head, convolutions, fast weights, and what `begin_in_model` sets.
    """
    shrink = (2 * model.config.layers) ** 0.5
    roles = param_roles(model)
    for name, module in model.named_modules():
        # A weight with as few rows as there are heads belongs to a gate: one number per head.
        if isinstance(module, (nn.Linear, nn.Embedding)) and len(module.weight) > model.config.heads:
            std = module.weight.shape[1] ** -0.5
            if roles[f"{name}.weight"].into_stream:
                std /= shrink
            nn.init.normal_(module.weight, std=std)
    for module in model.modules():
        if isinstance(module, Memory):
            module.begin_in_model()
        if isinstance(module, Level):
            module.first.normal_(std=module.first.shape[0] ** -0.5)
            module.last.normal_(std=module.last.shape[0] ** -0.5 / shrink)


def trained(
    shape: Shape,
    data: Data,
    training: TrainingConfig,
    folder: Path,
    device: str = "cpu",
    watch: Callable[[LanguageModel, int], None] | None = None,
    prepare: Callable[[LanguageModel], None] | None = None,
) -> tuple[LanguageModel, Run]:
    """A model of that shape, begun and trained from the config's seed, and its run. A run that was stopped continues
    from `folder`. `prepare` changes the fresh model before it is trained; `watch` is called with the model and the step
    before each step that is run. Raises KeyboardInterrupt if it is stopped."""
    with seeded(training.seed):
        model = build(shape)
        begin(model)
    if prepare is not None:
        prepare(model)
    model.to(device)
    if watch is not None:
        data = watched(model, data, watch)
    run = train(model, data, training, folder=folder, resume="auto", progress=False, about={"model": shape.to_dict()})
    if run.step < training.steps:
        raise KeyboardInterrupt
    return model, run


def watched(model: LanguageModel, data: Data, watch: Callable[[LanguageModel, int], None]) -> Data:
    """The same rows, step -> (inputs, targets), with a look at the model before each step."""

    def rows(step: int) -> tuple[Tensor, Tensor]:
        """Looks at the model, then gives the step's rows."""
        watch(model, step)
        return data(step)

    return rows


def curve(run: Run, every: int) -> list[dict[str, Any]]:
    """A run's loss at every `every`-th logged step, and at the last."""
    points = [{"step": line["step"], "loss": round(line["loss"], 4)} for line in run.metrics]
    return points[::every] + points[-1:]


def settled(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether a run was still improving when its budget ended. `metrics` are its logged steps in order, or a curve kept
    of them, each with a "loss" in nats.

    Returns `loss`, the mean over the last tenth of the steps, `before`, over the tenth before it, `fell`, the share by
    which it fell from one to the other (below 0: it rose), and `settled`: it fell by less than STILL_FALLS, or lies
    below NEAR_ZERO. Data are fresh at each step, so that a training loss is measured on texts not seen before. `before`
    and `fell` are None where one step alone was logged; that is never settled. Raises CourseError for no steps at all.
    """
    if not metrics:
        raise CourseError("a run without a logged step has no loss that could have settled.")
    losses = [line["loss"] for line in metrics]
    count = max(1, round(TENTH * len(losses)))
    last = _mean(losses[-count:])
    if len(losses) < 2 * count:
        return {"loss": round(last, 5), "before": None, "fell": None, "settled": False}
    before = _mean(losses[-2 * count : -count])
    fell = 1 - last / before if before > 0 else 0.0
    return {
        "loss": round(last, 5),
        "before": round(before, 5),
        "fell": round(fell, 4),
        "settled": fell < STILL_FALLS or last < NEAR_ZERO,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def path_of(model: nn.Module) -> str:
    """The path by which the model's memories compute: "auto" picks the fastest that can. Names of several stand side
    by side; "" where no memory has one."""
    paths = set()
    for module in model.modules():
        path = getattr(module, "path", None)
        if isinstance(path, str):
            paths.add(path)
    return ", ".join(sorted(paths))


def about_model(shape: Shape, model: LanguageModel) -> dict[str, Any]:
    """The model in a few words and numbers."""
    return {
        "memory": shape.memory,
        "options": dict(shape.options),
        "path": path_of(model),
        "hidden": hidden_of(shape),
        "parameters": model.parameter_count(),
    }


def described(shape: Shape, model: LanguageModel, run: Run, every: int, about: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the results of any part: the model, its training, and from which commit it came."""
    return {
        **about_model(shape, model),
        "rate": run.config.learning_rate,
        "settled": settled(run.metrics),
        "training_seconds": round(run.metrics[-1]["seconds"], 1),
        "made": {key: about[key] for key in ("commit", "recorded")},
        "curve": curve(run, every),
    }


@torch.no_grad()
def state_after(model: LanguageModel, tokens: int, device: str = "cpu") -> dict[str, int]:
    """Bytes of a state that has read so many tokens, measured on its tensors, one row."""
    state = model.init_state(1)
    text = torch.zeros(1, tokens, dtype=torch.long, device=device)
    for piece in text.split(1024, dim=1):
        _, state = model(piece, state)
    return {"tokens": tokens, "bytes": state.nbytes}


def recall_rows(pairs: list[int], vocab: int, training: TrainingConfig, filler: str = "values") -> Data:
    """step -> (inputs, targets) of multi-query recall, with fresh pairs each time; steps take the counts in turn."""

    def rows(step: int) -> tuple[Tensor, Tensor]:
        """One step's inputs and targets, (batch, T), with everything but the answers ignored."""
        count = pairs[step % len(pairs)]
        seed = training.seed * 10**6 + step
        task = mqar(training.batch_size, training.length, count, vocab, filler=filler, seed=seed)
        return task.tokens, task.targets.masked_fill(~task.mask, IGNORED)

    return rows


# -- parts that are kept -----------------------------------------------------------------------------------------------
def parts_folder(recipe: str, beside: Path | None = None) -> Path:
    """Where a recipe's parts are kept: in the learner's cache, or, for a trial, beside what it writes."""
    return beside / "parts" if beside else cache_folder() / "record" / recipe


def mark(identity: Any) -> str:
    """Twelve letters that stand for all that is asked of a part (anything JSON holds)."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def kept(path: Path, identity: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `path` (JSON) keeps of a part if the same was asked of it then; else what `make()` returns, kept."""
    wanted = mark(identity)
    if path.is_file():
        part = json.loads(path.read_text(encoding="utf-8"))
        if part.get("mark") == wanted:
            return part
    text = json.dumps({"mark": wanted, **make()}, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return json.loads(text)
