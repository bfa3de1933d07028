"""The memory budget of training: weights, gradients, AdamW's moments and activations. No cache is needed there.

Mixed-precision AdamW keeps 16 bytes per parameter (Rajbhandari et al. 2019, "ZeRO", arXiv 1910.02054, section
3.1, recalled): 2 for the 16-bit weight, 2 for its gradient, 4 each for the 32-bit copy and the two moments.
Activations per layer of a plain transformer: s b h (34 + 5 a s / h) bytes (Korthikanti et al. 2022, arXiv
2205.05198, equation 1, recalled). The formula is for an MLP of four widths and plain multi-head attention: an
estimate for others.
"""

from dataclasses import dataclass

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.scaling.formats import bytes_per_value
from nl_course.scaling.shapes import ModelShape, model

KEEP = ("everything", "no scores", "layer inputs")


@dataclass(frozen=True)
class TrainingBudget:
    """Bytes that training one model holds, summed over all accelerators that share it."""

    weights: float
    gradients: float
    master: float
    moments: float
    activations: float

    @property
    def states(self) -> float:
        """What does not depend on the batch: weights, gradients, the 32-bit copy, AdamW's two moments."""
        return self.weights + self.gradients + self.master + self.moments

    @property
    def total(self) -> float:
        """Everything held at once."""
        return self.states + self.activations


def activation_bytes(shape: str | ModelShape, context: int, batch: int = 1, keep: str = "no scores") -> float:
    """Bytes of 16-bit activations kept for the backward pass of `batch` sequences of `context` tokens.

    keep   "everything" with the T x T scores; "no scores" where a fused kernel recomputes them; "layer
           inputs" where each layer is recomputed from its input (2 s b h a layer). Embedding and logits are
           not counted.
    """
    shape = model(shape)
    s, b, h, a = check_int("context", context), check_int("batch", batch), shape.width, shape.heads
    if h is None:
        raise CourseError(f"{shape.title} has no width in the table, which activations need.")
    per_layer = {
        "everything": 34 * s * b * h + 5 * a * s * s * b,
        "no scores": 34 * s * b * h,
        "layer inputs": 2 * s * b * h,
    }
    return shape.depth * per_layer[check_choice("what to keep", keep, KEEP)]


def training_budget(
    shape: str | ModelShape,
    context: int,
    batch: int = 1,
    keep: str = "no scores",
    *,
    weights: str = "bf16",
    gradients: str = "bf16",
    master: bool = True,
    moments: str = "fp32",
) -> TrainingBudget:
    """What must be held to train `shape` with AdamW on `batch` sequences of `context` tokens at once."""
    count = model(shape).parameters
    return TrainingBudget(
        weights=count * bytes_per_value(weights),
        gradients=count * bytes_per_value(gradients),
        master=4.0 * count if master else 0.0,
        moments=2 * count * bytes_per_value(moments),
        activations=activation_bytes(shape, context, batch, keep),
    )
