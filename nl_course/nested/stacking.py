"""Ad-hoc level stacking (arXiv 2512.24695, section 7.3): the MLPs of a trained transformer become levels.

    theta_0 of a block's level = the donor's MLP;  attention, norms and embeddings stay what they were

With a rate of 0, or a chunk of 0, the result is the donor. The paper does not say which donor layer gets which clock.
Here every block has one clock, and a number given for all blocks is given to each.
"""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested.config import LevelConfig, NestedConfig
from nl_course.nested.model import NestedLanguageModel
from nl_course.seeding import seeded


def from_pretrained_blocks(
    model: LanguageModel,
    chunks: int | Sequence[int] | None,
    rates: float | Sequence[float] = 0.01,
    **options: Any,
) -> NestedLanguageModel:
    """A copy of `model` in which the MLP of block i is a level with chunk chunks[i] and inner rate rates[i].

    A chunk of 0 or None never moves. `options` are further fields of `NestedConfig`, and `learn_rate`.
    Raises CourseError for a model without MLPs, and for lists that are not as long as there are layers.
    """
    if not isinstance(model.config, ModelConfig):
        raise CourseError(f"from_pretrained_blocks takes a LanguageModel with MLPs, not a {type(model).__name__}.")
    donor = model.config
    learn_rate = options.pop("learn_rate", True)
    block_chunks = _for_each_layer(chunks, donor.layers, "chunks")
    block_rates = _for_each_layer(rates, donor.layers, "rates")
    levels = []
    for chunk, rate in zip(block_chunks, block_rates, strict=True):
        levels.append((LevelConfig(donor.hidden, chunk, rate, learn_rate, "swiglu"),))

    shared_fields = ("vocab", "width", "layers", "heads", "memory", "options", "conv", "tied", "norm_eps")
    shared = {name: getattr(donor, name) for name in shared_fields}
    try:
        config = NestedConfig(**{**shared, "levels": tuple(levels), **options})
    except TypeError as error:
        raise CourseError(f"from_pretrained_blocks: {error}.") from error

    with seeded(0):  # what is drawn here is overwritten
        nested = NestedLanguageModel(config)
    donor_weight = next(model.parameters())
    nested.to(device=donor_weight.device, dtype=donor_weight.dtype)
    nested.load_state_dict(nested.state_dict() | _as_levels(model.state_dict()))
    return nested.train(model.training)


def _for_each_layer(values: float | Sequence[float] | None, layers: int, name: str) -> Sequence:
    """`values` with one entry for each layer."""
    if values is None or isinstance(values, Real):
        return [values] * layers
    if len(values) != layers:
        raise CourseError(f"{name} has {len(values)} entries, and the model has {layers} layers.")
    return values


def _as_levels(donor: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The donor's weights under the names of a nested model with one "swiglu" level per block.

    The donor's nn.Linear holds (out, in), a level (in, out). Gate and up lie side by side in the level's W1.
    """
    weights = {}
    for name, w in donor.items():
        block, _, part = name.partition(".mlp.")
        if name.endswith("mlp_norm.weight"):
            weights[name.replace("mlp_norm", "levels.0.norm")] = w
        elif part == "gate.weight":
            gate_and_up = torch.cat([w, donor[f"{block}.mlp.up.weight"]])  # (2 hidden, width)
            weights[f"{block}.levels.0.first"] = gate_and_up.T  # (width, 2 hidden)
        elif part == "down.weight":
            weights[f"{block}.levels.0.last"] = w.T  # (hidden, width)
        elif not part:
            weights[name] = w
    return weights
