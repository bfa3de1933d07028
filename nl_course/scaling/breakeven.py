"""At how many tokens does a growing cache reach the bytes of a memory that does not grow?

    T* = state bytes / cache bytes per token

The states here are sizes by formula, of memories as wide as the model (their own notebooks measure the real ones).
Where a paper does not publish heads or number format the answer is a range, not a number: the width of a head decides.
Of models that people run it is exact: see `state_is_own_cache` and `cheaper_than_all_cached`.
"""

import math
from dataclasses import dataclass

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.scaling.cache import all_cached, bytes_per_token, state_bytes, tokens_in
from nl_course.scaling.formats import bytes_per_value
from nl_course.scaling.shapes import ModelShape, model

RULES = ("matrix", "affine", "mlp")


@dataclass(frozen=True)
class FixedMemory:
    """A state that does not grow: in each of `layers` layers, width / head_dim heads, each holding

    rule "matrix"   f x f                          linear attention, the delta rule
         "affine"   f x f and a bias of f          TTT-Linear (arXiv 2407.04620)
         "mlp"      f x ef, ef x f (and biases ef, f where `bias`)   TTT-MLP; a Titans memory of depth 2

    f = head_dim, e = expansion. `copies` counts what is carried beside the weights: 2 for a running gradient
    or a momentum. One full-width head is head_dim = width.
    """

    title: str
    rule: str
    head_dim: int
    layers: int = 24
    width: int = 2048
    dtype: str | float = "fp32"
    copies: int = 1
    expansion: int = 4
    bias: bool = False

    def __post_init__(self):
        check_choice("rule of a fixed memory", self.rule, RULES)
        for field in ("head_dim", "layers", "width", "copies", "expansion"):
            check_int(field, getattr(self, field), 1)
        if self.width % self.head_dim:
            raise CourseError(f"a width of {self.width} cannot be cut into heads of {self.head_dim}.")
        bytes_per_value(self.dtype)

    @property
    def values(self) -> int:
        """Numbers in one copy of the state of one sequence."""
        f, e = self.head_dim, self.expansion
        head = {"matrix": f * f, "affine": f * f + f, "mlp": 2 * e * f * f + (e * f + f if self.bias else 0)}
        return self.layers * (self.width // f) * head[self.rule]

    @property
    def nbytes(self) -> float:
        """Bytes of the state of one sequence."""
        return self.copies * self.values * bytes_per_value(self.dtype)


def mha_bytes_per_token(layers: int, width: int, kv_share: int = 1, dtype: str | float = "bf16") -> float:
    """Cache of a plain transformer of that size: 2 layers width b, divided by `kv_share` query heads per key
    (1 = MHA)."""
    check_int("kv_share", kv_share, 1)
    return 2 * check_int("layers", layers, 1) * check_int("width", width, 1) * bytes_per_value(dtype) / kv_share


def break_even_tokens(
    state: float | FixedMemory, against: float | str | ModelShape, dtype: str | float = "bf16"
) -> float:
    """Tokens at which the cache of `against` is as large as `state`: below it the cache is the smaller of the
    two.

    against   bytes per token, or a model of the table by name (its windows are then counted, in `dtype`);
              `math.inf` if its cache never gets there.
    """
    nbytes = state.nbytes if isinstance(state, FixedMemory) else check_min("state bytes", state, 0)
    if isinstance(against, (str, ModelShape)):
        return tokens_in(against, nbytes, dtype)
    return math.inf if check_min("bytes per token", against, 0) == 0 else nbytes / against


# -- models that people run ------------------------------------------------------------------------------------
def _hybrid(shape: str | ModelShape) -> ModelShape:
    """The model, if some of its layers keep a state and others a cache. Raises CourseError if not."""
    shape = model(shape)
    if not shape.is_hybrid:
        raise CourseError(f"{shape.title} is no hybrid: it needs layers with a state and layers with a cache.")
    return shape


def state_is_own_cache(shape: str | ModelShape, dtype: str | float = "bf16") -> float:
    """Tokens at which a hybrid's own cache is as large as its states: below it the states are the larger part.

    Tails of convolutions and indexer keys are left out. Raises CourseError for a model that is no hybrid.
    """
    return break_even_tokens(state_bytes(_hybrid(shape)), model(shape), dtype)


def cheaper_than_all_cached(shape: str | ModelShape, dtype: str | float = "bf16") -> float:
    """Tokens from which a hybrid keeps less than the same model with a cache in every layer:

        state bytes / (bytes per token if every layer kept a cache - bytes per token of its own)

    `math.inf` where a state stands beside a cache in every layer, which saves nothing. Windows are taken as full:
    they are the same in both. Raises CourseError for a model that is no hybrid.
    """
    shape = _hybrid(shape)
    saved = bytes_per_token(all_cached(shape), dtype) - bytes_per_token(shape, dtype)
    return break_even_tokens(state_bytes(shape), saved)


# Memories of the 1.3B class (24 layers of 2,048). Titans' and HOPE's head counts and number formats are not
# published.
FIXED_MEMORIES = {
    "linear": FixedMemory("linear attention or DeltaNet, heads of 64, bf16", "matrix", 64, dtype="bf16"),
    "gated-delta": FixedMemory("Gated DeltaNet-like, heads of 128, fp32", "matrix", 128),
    "ttt-linear": FixedMemory("TTT-Linear, bf16", "affine", 64, dtype="bf16"),
    "ttt-linear-x2": FixedMemory("TTT-Linear, fp32 and its running gradient", "affine", 64, copies=2),
    "ttt-mlp": FixedMemory("TTT-MLP, bf16", "mlp", 64, dtype="bf16", bias=True),
    "ttt-mlp-x2": FixedMemory("TTT-MLP, fp32 and its running gradient", "mlp", 64, copies=2, bias=True),
    "titans-heads": FixedMemory("Titans memory, depth 2, heads of 64, fp32 and momentum", "mlp", 64, copies=2),
    "titans-matrix": FixedMemory(
        "Titans memory, depth 1, one full-width head, fp32 and momentum", "matrix", 2048, copies=2
    ),
    "titans-wide-bf16": FixedMemory("Titans memory, depth 2, one full-width head, bf16", "mlp", 2048, dtype="bf16"),
    "titans-wide": FixedMemory("Titans memory, depth 2, one full-width head, fp32 and momentum", "mlp", 2048, copies=2),
    "titans-760m": FixedMemory(
        "Titans memory, 760M (24 x 1,536), full width, fp32 and momentum", "mlp", 1536, width=1536, copies=2
    ),
    "hope-one-level": FixedMemory("HOPE, one continuum level, bf16, weights only", "mlp", 2048, dtype="bf16"),
    "hope-four-levels": FixedMemory(
        "HOPE, four continuum levels, bf16, weights only", "mlp", 2048, dtype="bf16", copies=4
    ),
}
