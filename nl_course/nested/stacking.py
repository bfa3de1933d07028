"""Ad-hoc level stacking (arXiv 2512.24695, section 7.3): the MLPs of a trained transformer become levels.

    theta_0 of a block's level = the donor's MLP;  attention, norms and embeddings stay what they were

A rate of 0, or a chunk of 0, is the donor. Which donor layer gets which clock the paper does not say: ours is given one
clock a block, and a number for all blocks is given to each.
"""

from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested.config import LevelConfig, NestedConfig
from nl_course.nested.model import NestedLanguageModel


def from_pretrained_blocks(
    model: LanguageModel, chunks: int | Sequence[int], rates: float | Sequence[float] = 0.01, **options
) -> NestedLanguageModel:
    """A copy of `model` whose block i has the MLP as a level of period chunks[i] (0: never moves) and inner rate
    rates[i]; `options` are further fields of `NestedConfig`, and `learn_rate`."""
    if not isinstance(model.config, ModelConfig):
        raise CourseError(f"from_pretrained_blocks takes a LanguageModel with MLPs, not a {type(model).__name__}.")
    c, learn_rate = model.config, options.pop("learn_rate", True)
    levels = tuple(
        (LevelConfig(c.hidden, chunk, rate, learn_rate, "swiglu"),)
        for chunk, rate in zip(_each(chunks, c.layers, "chunks"), _each(rates, c.layers, "rates"), strict=True)
    )
    shared = {name: getattr(c, name) for name in ("vocab", "width", "layers", "heads", "memory", "options", "conv")}
    try:
        config = NestedConfig(**{**shared, "tied": c.tied, "levels": levels, **options})
    except TypeError as error:
        raise CourseError(f"from_pretrained_blocks: {error}.") from error
    nested = NestedLanguageModel(config)
    first = next(model.parameters())
    nested.to(device=first.device, dtype=first.dtype)
    nested.load_state_dict(nested.state_dict() | _as_levels(model.state_dict()))
    return nested.train(model.training)


def _each(values: object, layers: int, what: str) -> Sequence:
    if values is None or isinstance(values, Real):
        return [values] * layers
    if len(values) != layers:
        raise CourseError(f"{what} has {len(values)} entries, and the model has {layers} layers.")
    return values


def _as_levels(donor: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The donor's weights under the names of a nested model with one "swiglu" level a block."""
    weights = {}
    for name, w in donor.items():
        block, _, part = name.partition(".mlp.")
        if name.endswith("mlp_norm.weight"):
            weights[name.replace("mlp_norm", "levels.0.norm")] = w
        elif part == "gate.weight":
            weights[f"{block}.levels.0.first"] = torch.cat([w, donor[f"{block}.mlp.up.weight"]]).T
        elif part == "down.weight":
            weights[f"{block}.levels.0.last"] = w.T
        elif not part:
            weights[name] = w
    return weights
