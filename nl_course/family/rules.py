"""The rules of writing, one per memory in one notation: what is new beside the row before, and what is carried.

Vectors are rows: k, v, q (1, f), W (f, f). W is the memory, whatever letter its paper gives it; f(.; W) is what it
answers where it is a network. In a rule `\\new{...}` marks the term that the rows above do not have; tables set it in
color. Where a chunk has an anchor, the gradient is taken there; a chunk of one token is the rule as it stands here.

`numbers` counts what a layer carries from one token to the next, in numbers (4 bytes each in float32), with the
options that `build_memory` gives it: d is the layer's width, f a head's, t the tokens read, w a window.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """The rule of the row called `name` in rows.py: TeX with `\\new{...}`, what is carried, and how many numbers."""

    name: str
    rule: str
    carried: str
    numbers: str


# Parts that stand in several rules.
DELTA = r"W_t = \bar W_t + \beta_t\, k_t^\top (v_t - k_t \bar W_t), \quad \bar W_t = "
LOSS = r"\tfrac12 \lVert f(k_t; W_{t-1}) - v_t \rVert^2"

RULES: tuple[Rule, ...] = (
    Rule(
        "attention",
        r"o_t = \new{\textstyle\sum_{s \le t} \mathrm{softmax}_s(q_t k_s^\top / \sqrt{f})\, v_s}",
        "every k and v",
        "2 d t",
    ),
    Rule(
        "latent attention (MLA)",
        r"k_s, v_s = \new{c_s W_k,\; c_s W_v}",
        "every short vector c, and a rotary key",
        "",
    ),
    Rule("linear attention", r"W_t = \new{W_{t-1} + k_t^\top v_t}", "W", "d f"),
    Rule("RetNet", r"W_t = \new{\gamma}\, W_{t-1} + k_t^\top v_t", "W", "d f"),
    Rule(
        "DeltaNet",
        r"W_t = W_{t-1} + \new{\beta_t}\, k_t^\top (v_t \new{\,- k_t W_{t-1}})",
        "W, and 3 tokens for the convolutions",
        "d f + 9 d",
    ),
    Rule(
        "Gated DeltaNet",
        DELTA + r"\new{\alpha_t}\, W_{t-1}",
        "W, and 3 tokens for the convolutions",
        "d f + 9 d",
    ),
    Rule(
        "Kimi Delta Attention (KDA)",
        DELTA + r"\new{\mathrm{Diag}(\alpha_t)}\, W_{t-1}",
        "W, and 3 tokens for the convolutions",
        "d f + 9 d",
    ),
    Rule(
        "TTT-Linear",
        rf"W_t = W_{{t-1}} - \eta_t\, \new{{\nabla_W}}\, {LOSS}",
        "W at the anchor, a sum of gradients, 3 tokens for the convolutions",
        "2 d f + 8 d",
    ),
    Rule(
        "TTT-MLP",
        rf"W_t = W_{{t-1}} - \eta_t\, \nabla_W\, {LOSS}, \quad \new{{W = W_1, W_2}}",
        "as TTT-Linear, with two layers",
        "16 d f + 16 d",
    ),
    Rule(
        "Titans' memory (LMM)",
        r"W_t = \new{(1 - \alpha_t)}\, W_{t-1} + S_t, \quad S_t = \new{\eta_t S_{t-1}} - \theta_t \nabla_W\, " + LOSS,
        "W, past surprise S, W at the anchor, 3 tokens for the convolutions",
        "24 d f + 9 d",
    ),
    Rule(
        "MAC, MAG, MAL",
        r"y_t = \new{x_t + \mathrm{attention}(x_t)}, \quad W_t \text{ as LMM}",
        "as LMM, and k and v of a window or segment; MAG:",
        "24 d f + 9 d + 2 d w",
    ),
    Rule(
        "continuum memory system",
        r"W \leftarrow W - \eta\, \nabla_W \new{\textstyle\sum_{\text{chunk}} \ell_{\text{next token}}}",
        "each level's W, and the open chunk",
        "",
    ),
    Rule(
        "Integral DeltaNet",
        r"W_t \text{ as DeltaNet}, \quad "
        r"X_t = \new{W_t\, \mathrm{Diag}(\lambda) + X_{t-1}\, \mathrm{Diag}(1 - \lambda)}",
        "W and its slow mean X",
        "",
    ),
    Rule(
        "self-modifying Titans (HOPE)",
        r"W_t = (\alpha_t \new{\,- \eta_t k_t^\top k_t})\, W_{t-1} - \eta_t \nabla_W\, "
        r"\tfrac12 \lVert f(k_t; W_{t-1}) - \new{f(v_t; W_{t-1})} \rVert^2 \text{ for } \new{\text{every memory}}",
        "five memories, at the anchor and now, 3 tokens for the convolution",
        "16 d f + 7 d",
    ),
    Rule(
        "TTT-E2E",
        r"W \leftarrow W - \eta\, \new{\mathrm{clip}}\big(\nabla_W \textstyle\frac1C \sum_{\text{chunk}} "
        r"\ell_{\text{next token}}\big)",
        "each fast MLP's W, k and v of a window, the open chunk",
        "",
    ),
    Rule(
        "In-Place TTT",
        r"W \leftarrow W + \eta\, \textstyle\sum_{\text{chunk}} z_t^\top \new{\mathrm{conv}(e)_t\, W_{\text{target}}}",
        "the output matrix W of one MLP of a finished model, the open chunk",
        "",
    ),
    Rule(
        "cached states (Memory Caching)",
        r"o_t = \new{\textstyle\sum_i \gamma_i\,} f(q_t; \new{W^{(i)}})",
        "W, and its copies at the ends of segments",
        "",
    ),
)  # fmt: skip


def rule_of(name: str) -> Rule | None:
    """The rule of a row, by the row's name; None for a memory that the course does not build."""
    for rule in RULES:
        if rule.name == name:
            return rule
    return None
