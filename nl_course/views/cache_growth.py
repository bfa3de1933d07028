"""Cache growth: what is kept after each token?

A small model reads a text one token at a time, as in decoding. Every number shown is of the tensors that it then held:
the columns of one head's keys, the bytes that are filled (`state.nbytes`) and allocated (`state.capacity_bytes`), and
the time that each token took.
"""

import time
from dataclasses import replace
from typing import NamedTuple

import ipywidgets as W
import numpy as np
import torch

from nl_course.errors import check_choice
from nl_course.files import asset
from nl_course.memories import Trace
from nl_course.model import LanguageModel, ModelConfig
from nl_course.seeding import seeded
from nl_course.tasks.text import encode
from nl_course.training.checkpoint import load_model
from nl_course.views.attention_reading import with_holes, word_ticks
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View

CHECKPOINT = "checkpoints/attention-micro.safetensors"
TEXT = "A cache keeps the key and the value of each token it has read.  "
WINDOW = 16
FROM = 16  # the prediction asks for the growth from this token on
PASSES = 3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Kind(NamedTuple):
    """One kind of cache: the model's memory and options that give it, and its style in the theme."""

    memory: str
    options: dict
    style: str


def kinds(config: ModelConfig) -> dict[str, Kind]:
    """The kinds of cache that the view compares, for a model's width and heads."""
    heads, head_dim = config.heads, config.width // config.heads
    latent = dict(kv_rank=config.width // 2, rope_dim=head_dim // 2, head_dim=head_dim)
    return {
        "multi-head": Kind("attention", {}, "attention"),
        "grouped (2 heads share)": Kind("attention", {"kv_heads": max(1, heads // 2)}, "gqa"),
        "multi-query (all share)": Kind("attention", {"kv_heads": 1}, "mqa"),
        "latent": Kind("latent-attention", latent, "latent-attention"),
        f"window of {WINDOW}": Kind("attention", {"window": WINDOW}, "window"),
    }


def build(model: LanguageModel, kind: str, dtype: torch.dtype) -> LanguageModel:
    """A twin of `model` with another kind of cache: its weights where the shapes allow, else random ones (bytes and
    time do not depend on them)."""
    known = kinds(model.config)
    chosen = known[check_choice("kind of cache", kind, known)]
    with seeded(0):
        twin = LanguageModel(replace(model.config, memory=chosen.memory, options=chosen.options))
    own, theirs = twin.state_dict(), model.state_dict()
    fitting = {n: t for n, t in theirs.items() if n in own and own[n].shape == t.shape}
    twin.load_state_dict(fitting, strict=False)
    return twin.to(dtype).eval()


@torch.no_grad()
def decode(model: LanguageModel, text: str = TEXT) -> dict:
    """Reads `text` a token at a time; after each: bytes filled, allocated and by the formula, columns held, and seconds
    (the shortest of PASSES readings).

    `kept` (features, tokens) are the first layer's and first head's keys, or the latents where there are no keys.
    """
    tokens, trace, state = encode(text)[None], Trace(only=("layers.0.key",)), model.init_state(1)
    model(tokens[:, :1])  # the first call of all is slow
    rows = {"filled": [0], "allocated": [state.capacity_bytes], "formula": [0], "held": [0], "seconds": [np.nan]}
    for t in range(tokens.shape[1]):
        start = time.perf_counter()
        _, state = model(tokens[:, t : t + 1], state, trace)
        rows["seconds"].append(time.perf_counter() - start)
        cache = state.layers[0].key if hasattr(state.layers[0], "key") else state.layers[0].latent
        rows["filled"].append(state.nbytes)
        rows["allocated"].append(state.capacity_bytes)
        rows["formula"].append(model.state_bytes(t + 1))
        rows["held"].append(len(cache))
    for _ in range(PASSES - 1):
        again = model.init_state(1)
        for t in range(tokens.shape[1]):
            start = time.perf_counter()
            _, again = model(tokens[:, t : t + 1], again)
            rows["seconds"][t + 1] = min(rows["seconds"][t + 1], time.perf_counter() - start)
    columns = trace["layers.0.key"][0, :, 0] if "layers.0.key" in trace else cache.columns[0]
    return {"kept": columns.float().numpy().T, **{name: np.array(values) for name, values in rows.items()}}


def compute(decoded: dict, kind: str, style: str, tokens: int) -> dict:
    """The picture after `tokens` tokens: the columns still held (NaN elsewhere) and what was measured up to there."""
    held = int(decoded["held"][tokens])
    kept = np.full_like(decoded["kept"], np.nan)
    kept[:, tokens - held : tokens] = decoded["kept"][:, tokens - held : tokens]
    return {
        **decoded,
        "kind": kind,
        "style": style,
        "tokens": tokens,
        "grid": kept,
        "ticks": word_ticks(encode(TEXT).numpy()),
    }


def draw(arrays: dict, figure) -> None:
    """Left the columns held, right the bytes and the time of each token so far."""
    now, style, last = arrays["tokens"], theme.style(arrays["style"]), len(arrays["filled"]) - 1
    place, steps = np.arange(1, last + 1), np.arange(last + 1)
    what = "latents" if arrays["kind"] == "latent" else "keys of layer 1, head 1"
    figure.add_heatmap(
        z=with_holes(arrays["grid"]), x=place, y=np.arange(1, len(arrays["grid"]) + 1), colorscale=theme.SIGNS, zmid=0,
        zmin=-np.abs(arrays["kept"]).max(), zmax=np.abs(arrays["kept"]).max(), hoverongaps=False, name="kept",
        hovertemplate="token %{x}, number %{y}: %{z:.2f}<extra></extra>",
        colorbar=dict(thickness=10, x=0.51, title=dict(text="value", side="right")),
    )  # fmt: skip
    upto = steps <= now
    line = dict(color=theme.MUTED, width=2, dash="dot", shape="hv")
    figure.add_scatter(
        x=steps[upto], y=arrays["allocated"][upto], name="allocated", mode="lines", line=line, xaxis="x2", yaxis="y2"
    )
    figure.add_scatter(
        x=steps[upto], y=arrays["formula"][upto], name="formula", mode="lines", xaxis="x2", yaxis="y2",
        line=dict(color=theme.INK, width=1),
    )  # fmt: skip
    figure.add_scatter(
        x=steps[upto], y=arrays["filled"][upto], name="measured", mode="markers", xaxis="x2", yaxis="y2",
        marker=dict(color=style.color, symbol=style.marker, size=6),
    )  # fmt: skip
    figure.add_bar(
        x=steps[1:][upto[1:]], y=1000 * arrays["seconds"][1:][upto[1:]], name="time", xaxis="x3", yaxis="y3",
        marker=dict(color=style.color), showlegend=False,
    )  # fmt: skip
    titles = ((0, 1, f"What is kept: {what}, one column per token"), (0.67, 1, "Bytes of the whole cache"))
    titles += ((0.67, 0.36, "Time per token (ms)"),)
    axis = dict(range=[0.4, last + 0.6], domain=(0.67, 1))
    figure.update_layout(
        margin=dict(l=58, r=20, t=52, b=48), bargap=0.2, legend=dict(y=1.06),
        xaxis=dict(showgrid=False, range=[0.5, last + 0.5], domain=(0, 0.5), title="token", ticks="",
                   tickvals=arrays["ticks"][0], ticktext=arrays["ticks"][1], tickangle=0, tickfont=dict(size=11)),
        yaxis=dict(showgrid=False, title="number within the key"),
        xaxis2=dict(**axis, anchor="y2", showticklabels=False),
        yaxis2=dict(domain=(0.46, 1), anchor="x2", rangemode="tozero"),
        xaxis3=dict(**axis, anchor="y3", title="tokens read"),
        yaxis3=dict(domain=(0, 0.34), anchor="x3", rangemode="tozero"),
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for x, y, text in titles
        ],
    )  # fmt: skip


def read_out(arrays: dict) -> str:
    """Bytes measured beside the formula's and the allocated ones, and what the last token cost."""
    now = arrays["tokens"]
    filled, formula = int(arrays["filled"][now]), int(arrays["formula"][now])
    agree = "as the formula says" if filled == formula else f"but the formula says {formula:,}"
    text = (
        f"After {now} {'token' if now == 1 else 'tokens'} ({arrays['kind']}): {filled:,} bytes measured, {agree}; "
        f"{int(arrays['allocated'][now]):,} bytes allocated."
    )
    if now == 0:
        return text + " Nothing is kept yet."
    held, added = int(arrays["held"][now]), filled - int(arrays["filled"][now - 1])
    kept = "all columns are kept" if held == now else f"only the last {held} columns are kept"
    return (
        f"{text} The last token added {added:,} bytes. Here {kept}, and each step reads every column that is kept. "
        f"The text is so short that nearly all of a step's time is projections and overhead."
    )


class CacheGrowth(View):
    """The cache of `model` (attention in every layer; default: the course's recorded checkpoint) as it decodes."""

    name = "cache-growth"
    title = "What is kept after each token?"
    prediction = Prediction(
        f"By which factor will the cache grow from token {FROM} to token {len(TEXT)}?",
        lambda a: a["filled"][-1] / a["filled"][FROM] if a["tokens"] == len(a["filled"]) - 1 else None,
        until=f"Step or play to token {len(TEXT)}.",
        why="Every token adds as many bytes as any other, and only a window drops old ones, so four times the tokens "
        "keep four times the bytes.",
    )
    step_by = "tokens"
    width, height = 820, 400

    def __init__(self, model: LanguageModel | None = None, strict: bool | None = None, **settings):
        """`model` decodes (default: the course's checkpoint); what it decoded is kept."""
        self.model = load_model(asset(CHECKPOINT)) if model is None else model
        self._decoded: dict[tuple[str, str], dict] = {}
        super().__init__(strict, **settings)

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: tokens."""
        return {"tokens": W.IntSlider(value=FROM, min=0, max=len(TEXT), description="Tokens read")}

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: kind, dtype."""
        names = list(kinds(self.model.config))
        return {
            "kind": W.Dropdown(options=names, value=names[0], description="Kind of cache"),
            "dtype": W.Dropdown(options=list(DTYPES), value="float32", description="Numbers kept as"),
        }

    def compute(self, settings):
        """What the picture shows at these settings."""
        key = settings["kind"], settings["dtype"]
        if key not in self._decoded:  # measured once, then stepped through
            self._decoded[key] = decode(build(self.model, settings["kind"], DTYPES[settings["dtype"]]))
        style = kinds(self.model.config)[settings["kind"]].style
        return compute(self._decoded[key], settings["kind"], style, settings["tokens"])

    def draw(self, arrays, figure):
        """Draws what `compute` returned into an empty figure."""
        draw(arrays, figure)

    def read_out(self, arrays):
        """The sentence under the picture."""
        return read_out(arrays)
