"""What recipes that train several models share: models equal in size, starts that suit small ones, parts that are kept.

A part is one model from one seed, trained and measured. It is kept in the learner's cache as soon as it is done, under
a mark of all that was asked of it, so that a recording that was cut goes on where it was, and one whose config changed
makes anew only what the change concerns.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nl_course.errors import CourseError
from nl_course.files import cache_folder, write_atomically
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import Level, LevelConfig, NestedConfig, NestedLanguageModel
from nl_course.nested.e2e import e2e_config
from nl_course.tasks.recall import mqar
from nl_course.training import IGNORED, Run, TrainingConfig, train

TOLERANCE = 0.02  # share by which two models' parameters may differ
Shape = ModelConfig | NestedConfig


# -- models equal in size ----------------------------------------------------------------------------------------------
def sized(about: dict[str, Any], name: str, spec: dict[str, Any]) -> Shape:
    """The model called `name`, its MLPs or levels as wide as brings it nearest to `about["parameters"]`.

    `about` has the sizes that all models share: vocab (256 if absent), width, layers, heads. `spec` is a model's own:
    memory, options and conv; with `levels`, a list of chunks, and `rate` a continuum memory system after the memory;
    with `e2e`, the further arguments of `e2e_config`, a TTT-E2E model. Raises CourseError where the rest alone has more
    parameters, or the nearest differs by more than TOLERANCE.
    """
    shared = {"vocab": about.get("vocab", 256), **{key: about[key] for key in ("width", "layers", "heads")}}
    own = dict(spec)
    chunks, rate, e2e = own.pop("levels", None), own.pop("rate", 0.01), own.pop("e2e", None)

    def shaped(hidden: int) -> Shape:
        if e2e is not None:
            return e2e_config(**shared, hidden=hidden, **e2e)
        if chunks is None:
            return ModelConfig(**shared, hidden=hidden, **own)
        return NestedConfig(**shared, levels=tuple(LevelConfig(hidden, c, rate) for c in chunks), **own)

    wanted, (least, next_) = about["parameters"], [build(shaped(hidden)).parameter_count() for hidden in (1, 2)]
    hidden = 1 + round((wanted - least) / (next_ - least))
    if hidden < 1:
        raise CourseError(f"{name!r} alone has {least:,} parameters, more than the {wanted:,} asked for.")
    shape = shaped(hidden)
    count = build(shape).parameter_count()
    if abs(count / wanted - 1) > TOLERANCE:
        raise CourseError(f"{name!r} would have {count:,} parameters, not {wanted:,}.")
    return shape


def build(shape: Shape) -> LanguageModel:
    return (NestedLanguageModel if isinstance(shape, NestedConfig) else LanguageModel)(shape)


def hidden_of(shape: Shape) -> int:
    """The width of the MLPs, or of the levels, that `sized` chose."""
    return shape.levels[0][0].hidden if isinstance(shape, NestedConfig) else shape.hidden


@torch.no_grad()
def begin(model: LanguageModel) -> None:
    """N(0, 1/inputs) for linear layers, the embedding and the levels, those that write into the residual stream smaller
    by sqrt(2 layers): with N(0, 0.02) a model this narrow spends most of a short run on growing. The memories' own
    starts, of gates with a number a head, convolutions and fast weights, stay."""
    shrink = (2 * model.config.layers) ** 0.5
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)) and len(module.weight) > model.config.heads:
            writes = name.endswith(("output", "down"))
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5 / (shrink if writes else 1.0))
    for level in (module for module in model.modules() if isinstance(module, Level)):
        level.first.normal_(std=level.first.shape[0] ** -0.5)
        level.last.normal_(std=level.last.shape[0] ** -0.5 / shrink)


def trained(shape: Shape, data, training: TrainingConfig, folder: Path, device: str = "cpu") -> tuple[Any, Run]:
    """(model, run): a model of that shape, begun and trained from the config's seed; a cut run goes on from `folder`.
    Raises KeyboardInterrupt when it is cut."""
    torch.manual_seed(training.seed)
    model = build(shape)
    begin(model)
    model.to(device)
    run = train(model, data, training, folder=folder, resume="auto", progress=False, about={"model": shape.to_dict()})
    if run.step < training.steps:
        raise KeyboardInterrupt
    return model, run


def curve(run: Run, every: int) -> list[dict[str, Any]]:
    """A run's loss at every so many steps, and at the last."""
    found = [{"step": m["step"], "loss": round(m["loss"], 4)} for m in run.metrics]
    return found[::every] + found[-1:]


def about_model(shape: Shape, model: LanguageModel) -> dict[str, Any]:
    """The model in a few words and numbers."""
    return {
        "memory": shape.memory,
        "options": dict(shape.options),
        "hidden": hidden_of(shape),
        "parameters": model.parameter_count(),
    }


def described(shape: Shape, model: LanguageModel, run: Run, every: int, about: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the results of any part: the model, its training, and from which commit it came."""
    return {
        **about_model(shape, model),
        "training_seconds": round(run.metrics[-1]["seconds"], 1),
        "made": {key: about[key] for key in ("commit", "recorded")},
        "curve": curve(run, every),
    }


@torch.no_grad()
def state_after(model: LanguageModel, tokens: int, device: str = "cpu") -> dict[str, int]:
    """Bytes of a state that has read so many tokens, measured on its tensors, one row."""
    state, text = model.init_state(1), torch.zeros(1, tokens, dtype=torch.long, device=device)
    for piece in text.split(1024, dim=1):
        _, state = model(piece, state)
    return {"tokens": tokens, "bytes": state.nbytes}


def recall_rows(pairs: list[int], vocab: int, training: TrainingConfig):
    """step -> (inputs, targets) of multi-query recall, with fresh pairs each time; steps take the counts in turn."""

    def rows(step: int):
        count = pairs[step % len(pairs)]
        found = mqar(training.batch_size, training.length, count, vocab, seed=training.seed * 10**6 + step)
        return found.tokens, found.targets.masked_fill(~found.mask, IGNORED)

    return rows


# -- parts that are kept -----------------------------------------------------------------------------------------------
def parts_folder(recipe: str, beside: Path | None = None) -> Path:
    """Where a recipe's parts are kept: in the learner's cache, or for a trial beside what it writes."""
    return beside / "parts" if beside else cache_folder() / "record" / recipe


def mark(asked: Any) -> str:
    """Twelve letters that stand for all that is asked of a part (anything JSON holds)."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def kept(path: Path, asked: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `path` (JSON) keeps of a part if the same was asked of it then; else what `make()` returns, kept."""
    wanted = mark(asked)
    if path.is_file() and (found := json.loads(path.read_text(encoding="utf-8"))).get("mark") == wanted:
        return found
    found = {"mark": wanted, **make()}
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return json.loads(text)
