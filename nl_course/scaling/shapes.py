"""Published shapes of language models, as far as a cache needs them: `assets/models.json` as dataclasses."""

import json
from dataclasses import dataclass
from functools import cache

from nl_course.errors import CourseError, check_choice, check_int, check_min, shortened
from nl_course.files import asset
from nl_course.scaling.formats import bytes_per_value

KINDS = ("global", "local", "chunked", "latent", "state")
NEEDED = {  # what each kind of layer must say of itself
    "global": ("head_dim", "kv_heads"),
    "local": ("head_dim", "kv_heads", "window"),
    "chunked": ("head_dim", "kv_heads", "window"),
    "latent": ("head_dim", "kv_rank", "rope_dim"),
    "state": ("state_heads", "key_width", "value_width"),
}
MAY_BE_ZERO = ("rope_dim", "conv_channels")
RULES = ("delta", "sum")


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
              "chunked": of the current chunk of `window` tokens, after which attention starts anew (a server keeps
              a ring of `window` for it); "latent": one latent of `kv_rank` and one rotary key of `rope_dim` per
              token, shared by all heads (MLA); "state": a matrix per head that does not grow (linear attention)
    kv_heads  keys (and as many values) kept per token: heads for MHA, fewer for GQA, 1 for MQA
    head_dim  width of a head (for latent: of its value, and of the part of its key without position; their mean
              where the two differ)

    Sparse attention keeps what its kind keeps and reads less: a query reads the `top_k` tokens that an indexer picks.
    The indexer scores one key of `index_dim` for every `index_pool` tokens, with `index_heads` queries. It keeps those
    keys for all tokens, beside the cache. `top_k` None: every token is read.

    A state has `state_heads` matrices of `key_width` x `value_width` in `state_dtype`, written by `rule`: "delta" (the
    delta rule with retention: DeltaNet, KDA) or "sum" (a decaying sum of outer products: Mamba-2). A short convolution
    of `conv_width` taps over `conv_channels` channels keeps its last conv_width - 1 inputs.

    parallel  True: the group stands beside the one before it, inside the same layers, and adds nothing to the depth
    """

    count: int
    kind: str
    head_dim: int | None = None
    kv_heads: int | None = None
    window: int | None = None
    kv_rank: int | None = None
    rope_dim: int | None = None
    top_k: int | None = None
    index_dim: int = 0
    index_heads: int = 0
    index_pool: int = 1
    state_heads: int | None = None
    key_width: int | None = None
    value_width: int | None = None
    state_dtype: str | float = "fp32"
    rule: str = "delta"
    conv_width: int = 1
    conv_channels: int = 0
    parallel: bool = False

    def __post_init__(self):
        check_choice("kind of layer", self.kind, KINDS)
        for field in ("count", *NEEDED[self.kind], "conv_width", "conv_channels", "index_pool"):
            if getattr(self, field) is None:
                raise CourseError(f"a {self.kind} layer needs {field}.")
            check_int(field, getattr(self, field), 0 if field in MAY_BE_ZERO else 1)
        check_choice("rule of a state", self.rule, RULES)
        bytes_per_value(self.state_dtype)
        if self.top_k is not None:
            if self.kind not in ("global", "latent"):
                raise CourseError(f"top_k is for global and latent layers, not for a {self.kind} layer.")
            for field in ("top_k", "index_dim", "index_heads"):
                check_int(field, getattr(self, field), 1)

    @property
    def grows(self) -> bool:
        """Whether each further token adds to what it keeps, however long the text is."""
        return self.kind in ("global", "latent")

    @property
    def values_per_token(self) -> int:
        """Numbers that one layer's cache keeps for one token: 2 kv_heads head_dim, or kv_rank + rope_dim for latents;
        0 for a state. An indexer's keys are counted apart, in `index_values`."""
        if self.kind == "state":
            return 0
        if self.kind == "latent":
            return self.kv_rank + self.rope_dim
        return 2 * self.kv_heads * self.head_dim

    @property
    def index_values(self) -> float:
        """Numbers that one layer's indexer keeps for one token."""
        return 0.0 if self.top_k is None else self.index_dim / self.index_pool

    @property
    def state_values(self) -> int:
        """Numbers in one layer's state; 0 for a layer with a cache."""
        return self.state_heads * self.key_width * self.value_width if self.kind == "state" else 0

    @property
    def tail_values(self) -> int:
        """Numbers that one layer's short convolution keeps: its last conv_width - 1 inputs."""
        return (self.conv_width - 1) * self.conv_channels

    def tokens_kept(self, tokens: float) -> float:
        """How many of `tokens` one layer's cache still holds."""
        return min(tokens, self.window) if self.kind in ("local", "chunked") else tokens

    def tokens_read(self, tokens: float) -> float:
        """How many of `tokens` the next query reads: the `top_k` of a sparse layer; beyond the first chunk of a
        chunked one, half a chunk on average."""
        if self.kind == "chunked" and tokens > self.window:
            return self.window / 2
        kept = self.tokens_kept(tokens)
        return kept if self.top_k is None else min(kept, self.top_k)


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
    per_layer_tables: int = 0
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
            if group.kv_heads is not None and self.heads % group.kv_heads:
                raise CourseError(f"{self.heads} query heads cannot share {group.kv_heads} key-value heads evenly.")

    @property
    def depth(self) -> int:
        """Number of layers that mix tokens. Blocks with an MLP alone, as Nemotron-H has them, are none."""
        return sum(group.count for group in self.layers if not group.parallel)

    @property
    def active(self) -> float:
        """Parameters that one token passes: all but the experts that it did not choose."""
        return self.parameters if self.active_parameters is None else self.active_parameters

    @property
    def lookup_parameters(self) -> int:
        """Numbers in tables of which a token reads one row, and with which nothing is multiplied: an input embedding
        that is no output matrix too, and `per_layer_tables`. The embedding counts 0 where it is the output matrix,
        or where the table does not say."""
        if self.tied or self.vocab is None or self.width is None:
            return self.per_layer_tables
        return self.vocab * self.width + self.per_layer_tables

    @property
    def matmul_parameters(self) -> float:
        """Parameters that one token is multiplied with, 2 operations each: the active ones without a mere look-up."""
        return self.active - self.lookup_parameters

    @property
    def attention(self) -> str:
        """How its cache is shaped, in a word: "MHA", "GQA", "MQA" or "MLA", with "sparse" where a query reads a choice
        of tokens, "+ window" or "+ chunks" where layers forget, and "+ state" where layers keep a matrix instead."""
        cached = [group for group in self.layers if group.kind != "state"]
        if not cached:
            return "state"
        parts = [_sharing(cached[0], self.heads)]
        if any(group.top_k is not None for group in cached):
            parts[0] = f"sparse {parts[0]}"
        kinds = {group.kind for group in self.layers}
        parts += [
            word for kind, word in (("local", "window"), ("chunked", "chunks"), ("state", "state")) if kind in kinds
        ]
        return " + ".join(parts)

    @property
    def is_hybrid(self) -> bool:
        """Whether some of its layers keep a state and others a cache."""
        return {group.kind == "state" for group in self.layers} == {True, False}


def _sharing(group: LayerGroup, heads: int) -> str:
    """How `heads` query heads share what a cached layer keeps: "MHA", "GQA", "MQA" or "MLA"."""
    if group.kind == "latent":
        return "MLA"
    if group.kv_heads == heads:
        return "MHA"
    return "MQA" if group.kv_heads == 1 else "GQA"


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
