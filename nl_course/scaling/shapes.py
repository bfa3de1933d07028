"""Published shapes of language models, as far as a cache needs them: `assets/models.json` as dataclasses."""

import json
from dataclasses import dataclass
from functools import cache

from nl_course.errors import CourseError, check_choice, check_int, check_min, shortened
from nl_course.files import asset

KINDS = ("global", "local", "latent")


def read_table(name: str) -> dict:
    """A JSON table among the assets. Raises CourseError if it is missing or damaged."""
    path = asset(name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CourseError(f"the table {path} cannot be read ({error}); restore it from the repository.") from error


@dataclass(frozen=True)
class LayerGroup:
    """`count` equal layers.

    kind      "global": keys and values of every token; "local": of the last `window` tokens, in a ring;
              "latent": one latent of `kv_rank` and one rotary key of `rope_dim` per token, shared by all
              heads (MLA)
    kv_heads  keys (and as many values) kept per token: heads for MHA, fewer for GQA, 1 for MQA
    head_dim  width of a head (for latent: of its value, and of the part of its key without position)
    """

    count: int
    kind: str
    head_dim: int
    kv_heads: int | None = None
    window: int | None = None
    kv_rank: int | None = None
    rope_dim: int | None = None

    def __post_init__(self):
        check_choice("kind of layer", self.kind, KINDS)
        needed = {"global": ("kv_heads",), "local": ("kv_heads", "window"), "latent": ("kv_rank", "rope_dim")}
        for field in ("count", "head_dim", *needed[self.kind]):
            if getattr(self, field) is None:
                raise CourseError(f"a {self.kind} layer needs {field}.")
            check_int(field, getattr(self, field), 0 if field == "rope_dim" else 1)

    @property
    def values_per_token(self) -> int:
        """Numbers that one layer keeps for one token: 2 kv_heads head_dim, or kv_rank + rope_dim for
        latents."""
        return self.kv_rank + self.rope_dim if self.kind == "latent" else 2 * self.kv_heads * self.head_dim

    def tokens_kept(self, tokens: float) -> float:
        """How many of `tokens` one layer still holds."""
        return min(tokens, self.window) if self.kind == "local" else tokens


@dataclass(frozen=True)
class ModelShape:
    """What the arithmetic of stage 2 needs to know about a model. Units as in `assets/models.json`."""

    name: str
    title: str
    parameters: float
    heads: int
    layers: tuple[LayerGroup, ...]
    max_context: int
    active_parameters: float | None = None
    width: int | None = None
    vocab: int | None = None
    tied: bool = True
    experts: int | None = None
    experts_used: int | None = None
    date: str = ""
    family: str = ""
    parameters_basis: str = "nominal"
    source: str = ""
    confidence: str = "recalled"
    note: str = ""

    def __post_init__(self):
        check_int("heads", self.heads, 1)
        check_min("parameters", self.parameters, 0)
        for name in ("width", "vocab"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        is_list = isinstance(self.layers, (tuple, list))
        if not is_list or not all(isinstance(group, LayerGroup) for group in self.layers):
            raise CourseError(f"layers must be a tuple of LayerGroup, not {shortened(self.layers)}.")
        if not self.layers:
            raise CourseError(f"{self.title} has no layers.")
        for group in self.layers:
            if group.kind != "latent" and self.heads % group.kv_heads:
                raise CourseError(f"{self.heads} query heads cannot share {group.kv_heads} key-value heads evenly.")

    @property
    def depth(self) -> int:
        """Number of layers."""
        return sum(group.count for group in self.layers)

    @property
    def active(self) -> float:
        """Parameters that one token passes: all but the experts that it did not choose."""
        return self.parameters if self.active_parameters is None else self.active_parameters

    @property
    def lookup_parameters(self) -> int:
        """Numbers in an input embedding that is no output matrix too. A token reads one row of it, and nothing is
        multiplied with it. 0 where both are one matrix, or where the table does not say."""
        if self.tied or self.vocab is None or self.width is None:
            return 0
        return self.vocab * self.width

    @property
    def matmul_parameters(self) -> float:
        """Parameters that one token is multiplied with, 2 operations each: the active ones without a mere look-up."""
        return self.active - self.lookup_parameters

    @property
    def attention(self) -> str:
        """How its cache is shaped, in a word: "MHA", "GQA", "MQA" or "MLA", with "+ window" where layers
        slide."""
        first = self.layers[0]
        if first.kind == "latent":
            return "MLA"
        kind = "MHA" if first.kv_heads == self.heads else "MQA" if first.kv_heads == 1 else "GQA"
        return f"{kind} + window" if any(group.kind == "local" for group in self.layers) else kind


@cache
def models() -> dict[str, ModelShape]:
    """Every model of `assets/models.json` by name, in the table's order."""
    shapes = {}
    for row in read_table("models.json")["models"]:
        layers = tuple(LayerGroup(**group) for group in row["layers"])
        shapes[row["name"]] = ModelShape(**{**row, "layers": layers})
    return shapes


def model(name: str | ModelShape) -> ModelShape:
    """A model by name, e.g. `model("llama-3.1-8b")`. Raises CourseError with a guess for a misspelled name."""
    return name if isinstance(name, ModelShape) else models()[check_choice("model", name, models())]


def uniform(
    layers: int,
    heads: int,
    head_dim: int,
    kv_heads: int | None = None,
    *,
    parameters: float | None = None,
    window: int | None = None,
    max_context: int = 131072,
    title: str = "yours",
) -> ModelShape:
    """A model of your own with equal layers. Without `parameters`, 12 layers width^2 is taken (width = heads
    head_dim), the count of a plain transformer without its embedding (Kaplan et al. 2020, section 2.1)."""
    check_int("heads", heads, 1)
    kind = "global" if window is None else "local"
    group = LayerGroup(check_int("layers", layers, 1), kind, head_dim, heads if kv_heads is None else kv_heads, window)
    width = heads * head_dim
    count = 12 * layers * width**2 if parameters is None else parameters
    return ModelShape("own", title, count, heads, (group,), max_context, width=width)
