"""The wiring of Titans: what does each part of MAC, MAG, MAL and the memory alone see, and what is it worth?

Behrouz, Zhong and Mirrokni 2024, arXiv 2501.00663, section 4. Above, the wiring in the order of its operations, with
the chosen word's path lit. Below, measured on a real layer (wiring_measure.py): which earlier words change what each
part says, which part keeps how many bytes, and what becomes of the output, or of the recall of a needle, without it.
"""

import ipywidgets as W
import numpy as np

from nl_course.errors import CourseError, check_choice
from nl_course.tasks.text import encode
from nl_course.views.attention_reading import with_holes, words
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure
from nl_course.views.wiring_measure import CUTS, KINDS, LONGEST, MOST_WORDS, measure, recall, trained

# Boxes (x, y, text, part) and arrows (from, to, text, its share of the way, above or below); numbers are the order.
GRAPHS = {
    "LMM": (
        {
            "P": (1.2, 2.6, "persistent tokens<br>written first", "persistent"),
            "x": (1.2, 1, "word", ""),
            "memory": (4.4, 1.9, "memory M", "memory"),
            "gate": (7.2, 1, "gate", ""),
            "o": (9.3, 1, "output", ""),
        },
        [("P", "memory", ""), ("x", "memory", "1 write x"), ("memory", "gate", "2 read"), ("x", "gate", "3 gate"),
         ("gate", "o", "")],
    ),
    "MAC": (
        {
            "x": (0.7, 1, "word", ""),
            "old": (2.4, 2.6, "memory as the<br>segment began", "memory"),
            "P": (4.5, 2.6, "persistent<br>tokens", "persistent"),
            "attention": (4.5, 1, "attention", "attention"),
            "new": (6.7, 2.6, "memory after<br>the write", "memory"),
            "gate": (8.2, 1, "gate", ""),
            "o": (9.5, 1, "output", ""),
        },
        [("x", "old", "1 ask"), ("old", "attention", "1 retrieve"), ("x", "attention", "2 attend"),
         ("P", "attention", ""), ("attention", "new", "3 write y"), ("new", "gate", "4 read"),
         ("attention", "gate", "5 gate"), ("gate", "o", "")],
    ),
    "MAG": (
        {
            "P": (1.2, 1.8, "persistent<br>tokens", "persistent"),
            "x": (1.2, 0.8, "word", ""),
            "memory": (4.4, 2.6, "memory M", "memory"),
            "attention": (4.4, 0.8, "attention", "attention"),
            "gate": (7.2, 0.8, "gate", ""),
            "o": (9.3, 0.8, "output", ""),
        },
        [("P", "memory", ""), ("P", "attention", ""), ("x", "attention", "1 attend"), ("x", "memory", "2 write x"),
         ("memory", "gate", "3 read"), ("attention", "gate", "4 gate"), ("gate", "o", "")],
    ),
    "MAL": (
        {
            "P": (1.2, 2.6, "persistent<br>tokens", "persistent"),
            "x": (1.2, 0.9, "word", ""),
            "memory": (3.6, 2.6, "memory M", "memory"),
            "add": (5.2, 0.9, "x + read", ""),
            "attention": (7.4, 0.9, "attention", "attention"),
            "o": (9.4, 0.9, "output", ""),
        },
        [("P", "memory", ""), ("x", "memory", "1 write x"), ("memory", "add", "2 read"), ("x", "add", "2 add"),
         ("add", "attention", "3 attend"), ("attention", "o", "")],
    ),
}  # fmt: skip
# With a residual path around attention: what goes past it in MAL, and what attention is called in the others.
PAST_ATTENTION = ("memory", "o", "4 add the read")
ADDED_TO = {"MAC": "word + attention", "MAG": "word + attention"}
LOOKS = {"LMM": "titans", "MAC": "mac", "MAG": "mag", "MAL": "mal"}
BYTES = ("memory", "attention", "persistent", "convolutions")

TEXT = "The key is 7. Keep it. The sea is calm and the boats are in. What is the key? "
LEARNED = ("untrained", "trained on needles")
WORTH = ("change of the output", "recall of a needle")
NEEDLE_LENGTHS = (128, 256, 512)
FAR = 1000  # tokens of the longer cache that the read-out names


def compute(
    kind: str, cut: str, token: int, text: str = TEXT, model: str = LEARNED[0], worth: str = WORTH[0],
    length: int = NEEDLE_LENGTHS[0],
) -> dict:  # fmt: skip
    """What the picture shows for one word, `token` (from 1). `kind` is a name of KINDS; `cut` one of CUTS."""
    learned = check_choice("model", model, LEARNED) == LEARNED[1]
    found = measure(kind, learned, cut, text)
    if not 1 <= token <= len(found.names):
        raise CourseError(f"word {token} is past the text's end: it has {len(found.names)}.")
    row, cut = token - 1, cut if found.change else CUTS[0]
    shares = {"without " + part: change for part, change in found.change.items()}
    if worth == WORTH[1]:
        shares = {("whole" if c == CUTS[0] else f"without {c}"): recall(kind, c, length) for c in _cuts(found)}
    last, ends = int(found.ends[row]) + 1, found.ends + 1
    first = (last - 1) // found.near * found.near + 1 if kind == "MAC" else max(1, last - found.near + 1)
    return {
        "kind": kind, "cut": cut, "token": token, "names": found.names, "learned": learned, "text_bytes": int(ends[-1]),
        "seen": {name: np.where(sizes[row] > 0, sizes[row], np.nan) for name, sizes in found.seen.items()},
        "residual": found.residual, "reach": f"bytes {first}–{last}", "bytes": found.bytes, "cache": found.cache,
        "worth": shares,
        "worth_title": "Pass keys recalled" if worth == WORTH[1] else "Change of the output", "length": length,
        "back": {name: _earliest(sizes[row]) for name, sizes in found.seen.items()},
    }  # fmt: skip


def _cuts(found) -> list[str]:
    """What can be cut: nothing, and each part."""
    return [CUTS[0], *found.change]


def _earliest(sizes: np.ndarray) -> int:
    """The first word (from 1) that changes a part; 0 for a part that is cut or sees nothing."""
    (places,) = np.nonzero(np.nan_to_num(sizes) > 0)
    return int(places[0]) + 1 if len(places) else 0


def read_out(arrays: dict) -> str:
    """How far back each part sees from the chosen word, the bytes beside a full cache, and what a cut changes."""
    names, token = arrays["names"], arrays["token"]
    sees = [
        f"{part} back to word {first}, “{names[first - 1]}”" if first else f"{part}: nothing"
        for part, first in arrays["back"].items()
    ]
    total, far = sum(arrays["bytes"].values()), arrays["cache"] * FAR // arrays["text_bytes"]
    text = (
        f"{arrays['kind']}, {arrays['cut']} cut. At word {token}, "
        f"“{names[token - 1]}”, these see: {'; '.join(sees)}. The layer keeps {total:,} bytes; a full KV cache of this "
        f"text is {arrays['cache']:,}, and of {FAR:,} tokens {far:,}."
    )
    shares = ", ".join(f"{part} {share:.0%}" for part, share in arrays["worth"].items())
    if not shares:
        text += " The memory alone has no other part to cut."
    elif arrays["worth_title"] == "Pass keys recalled":
        text += f" Of pass keys in {arrays['length']} bytes it recalls: {shares}."
    else:
        text += f" The output changes by: {shares}."
    return text + ("" if arrays["learned"] else " This layer has learned nothing: it shows who can see, not who knows.")


ANSWERS = ("the whole text", "its own segment or window", "only itself")


def outcome(arrays: dict) -> str | None:
    """How far back the output sees in MAC or MAG without the memory; None until the memory was cut there."""
    if arrays["kind"] not in ("MAC", "MAG") or arrays["cut"] != "memory" or arrays["token"] < 2:
        return None
    first = list(arrays["back"].values())[-1]
    if first == 1:
        return ANSWERS[0]
    return ANSWERS[2] if first == arrays["token"] else ANSWERS[1]


def draw(arrays: dict, figure) -> None:
    """The wiring, the map of what each part sees, the bytes and the cuts of `arrays`."""
    words = _wiring(arrays, figure)
    own, full = theme.style(LOOKS[arrays["kind"]]), theme.style("attention")
    rows = list(arrays["seen"])
    sizes = np.array([arrays["seen"][name] for name in rows])
    logs = np.where(sizes > 0, np.log10(np.maximum(sizes, 1e-12)), np.nan)
    place = np.arange(1, len(arrays["names"]) + 1)
    figure.add_heatmap(
        z=with_holes(logs), x=place, y=rows, name="seen", xaxis="x2", yaxis="y2", colorscale=theme.SIZES, zmin=-4,
        zmax=0, xgap=1, ygap=3, hoverongaps=False,
        hovertemplate="%{y}: word %{x} changes it by 10^%{z:.1f}<extra></extra>",
        colorbar=dict(thickness=10, x=0.51, y=0.24, len=0.6, tickvals=[-4, -2, 0], ticktext=["0.01 %", "1 %", "100 %"]),
    )  # fmt: skip
    held, small = [arrays["bytes"][name] for name in BYTES], dict(size=11)
    beside = dict(textposition="outside", textfont=small, constraintext="none", cliponaxis=False)
    figure.add_bar(
        x=[*held, arrays["cache"]], y=[*BYTES, "a full KV cache"], orientation="h", name="bytes", xaxis="x3",
        yaxis="y3", text=[f"{size:,}" for size in (*held, arrays["cache"])], **beside,
        marker=dict(color=[own.color] * 4 + [full.color], pattern=dict(shape=[own.pattern] * 4 + [full.pattern])),
    )  # fmt: skip
    worth = arrays["worth"]
    figure.add_bar(
        x=[100 * share for share in worth.values()], y=list(worth), orientation="h", name="cut", xaxis="x4", yaxis="y4",
        text=[f"{share:.0%}" for share in worth.values()], **beside,
        marker=dict(color=theme.style("outer").color, pattern=dict(shape="x")),
    )  # fmt: skip
    lists = dict(autorange="reversed", dtick=1, tickfont=small)  # every name, however little room there is
    numbers = dict(domain=(0.8, 0.93), nticks=3, rangemode="tozero", showticklabels=False)
    titles = (
        (0, 0.54, "left", f"What changes at “{arrays['names'][arrays['token'] - 1]}” when an earlier word is another"),
        (1, 0.54, "right", "Bytes kept after the text"),
        (1, 0.17, "right", arrays["worth_title"] if worth else ""),
    )
    figure.update_layout(
        margin=dict(l=130, r=20, t=4, b=74), showlegend=False, bargap=0.3,
        xaxis=dict(domain=(0, 1), range=[0, 10], visible=False),
        yaxis=dict(domain=(0.63, 1), range=[0.45, 3.05], visible=False),
        xaxis2=dict(domain=(0, 0.5), anchor="y2", tickvals=place, ticktext=arrays["names"], tickangle=-60,
                    tickfont=small, title="words of the text", showgrid=False, range=[0.5, len(place) + 0.5]),
        yaxis2=dict(domain=(0, 0.53), anchor="x2", autorange="reversed", showgrid=False),
        xaxis3=dict(**numbers, anchor="y3"),
        yaxis3=dict(**lists, domain=(0.27, 0.53), anchor="x3"),
        xaxis4=dict(**numbers, anchor="y4", visible=bool(worth)),
        yaxis4=dict(**lists, domain=(0, 0.16), anchor="x4", visible=bool(worth)),
        annotations=words + [
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor=anchor, yanchor="bottom", showarrow=False)
            for x, y, anchor, text in titles
        ],
        shapes=[dict(type="rect", x0=arrays["token"] - 0.5, x1=arrays["token"] + 0.5, y0=0, y1=1, xref="x2",
                     yref="y2 domain", line=dict(color=theme.style("outer").color, width=2))],
    )  # fmt: skip


def _wiring(arrays: dict, figure) -> list[dict]:
    """Arrows as lines with a head, boxes as annotations, which it returns. What is cut is grey and dotted."""
    boxes, arrows = GRAPHS[arrays["kind"]]
    if arrays["residual"] and arrays["kind"] == "MAL":
        arrows = [*arrows, PAST_ATTENTION]
    lit, off = theme.style("outer").color, theme.MUTED
    words = []
    for start, end, said in arrows:
        (x0, y0, _, part0), (x1, y1, _, part1) = boxes[start], boxes[end]
        dead = arrays["cut"] in (part0, part1) and arrays["cut"] != "nothing" and not _passes(arrays, start, end)
        reach = 0.86 if abs(x1 - x0) > 1.5 else 0.66  # the head stays clear of the box
        head = (x0 + reach * (x1 - x0), y0 + 0.8 * (y1 - y0))
        figure.add_scatter(
            x=[x0, head[0]], y=[y0, head[1]], mode="lines+markers", name=f"{start} to {end}", hoverinfo="skip",
            line=dict(color=off if dead else lit, width=1 if dead else 3, dash="dot" if dead else "solid"),
            marker=dict(symbol="arrow", angleref="previous", size=[0, 9 if dead else 14], color=off if dead else lit),
        )  # fmt: skip
        if said:
            words.append(dict(x=(x0 + x1) / 2, y=(y0 + y1) / 2, text=said, bgcolor="white", showarrow=False,
                              font=dict(color=off if dead else theme.INK)))  # fmt: skip
    for name, (x, y, text, part) in boxes.items():
        dead = part and part == arrays["cut"]
        text = f"“{arrays['names'][arrays['token'] - 1]}”" if name == "x" else text
        if name == "attention" and arrays["residual"]:
            text = ADDED_TO.get(arrays["kind"], text)
        if dead:
            text += "<br>(cut)"
        elif name == "attention":
            text += f"<br>{arrays['reach']}"
        words.append(dict(x=x, y=y, text=text, showarrow=False, bgcolor="white", borderpad=5,
                          bordercolor=off if dead or not part else theme.style(LOOKS[arrays["kind"]]).color,
                          borderwidth=2, font=dict(color=off if dead else theme.INK)))  # fmt: skip
    return words


def _passes(arrays: dict, start: str, end: str) -> bool:
    """Arrows through an attention that is cut, where its place passes on what it is given: in MAC always, in MAG with a
    residual path, and in MAL without one."""
    through = {"MAC": {("x", "attention"), ("attention", "new"), ("attention", "gate")}}
    if arrays["residual"]:
        through["MAG"] = {("x", "attention"), ("attention", "gate")}
    else:
        through["MAC"].remove(("attention", "gate"))
        through["MAL"] = {("add", "attention"), ("attention", "o")}
    return arrays["cut"] == "attention" and (start, end) in through.get(arrays["kind"], ())


class Wiring(View):
    """MAC, MAG, MAL or the memory alone, one part cut at a time."""

    name = "wiring"
    title = "What does each part see, and what is lost without it?"
    prediction = Prediction(
        "Attention in MAC reads its own segment, and what the memory retrieved for it. Cut the memory: what of the "
        "text can the output at the last word still depend on?",
        outcome,
        options=ANSWERS,
        until="Cut the memory, in MAC or MAG, with the last word chosen.",
        why="Only the memory carries anything beyond the segment or the window that attention sees.",
    )
    step_by = "token"
    continuous = False
    width, height = 920, 420

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: kind, cut, token."""
        last = int(words(encode(TEXT).numpy()).max()) + 1
        return {
            "kind": W.ToggleButtons(
                options=list(KINDS), value="MAC", description="Wiring", style={"button_width": "70px"}
            ),
            "cut": W.ToggleButtons(options=CUTS, value=CUTS[0], description="Cut", style={"button_width": "90px"}),
            "token": W.IntSlider(value=last, min=1, max=last, description="Word"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: model, worth, length."""
        text = {"text": W.Text(value=TEXT, description="Your text", layout=W.Layout(width="640px", max_width="100%"))}
        if not all(trained(name) for name in KINDS):
            return text
        return {
            **text,
            "model": W.ToggleButtons(options=LEARNED, value=LEARNED[1], description="The layer is"),
            "worth": W.ToggleButtons(options=WORTH, value=WORTH[0], description="A part's worth"),
            "length": W.Dropdown(options=NEEDLE_LENGTHS, description="Bytes around the needle"),
        }

    def adjust(self, name):
        """Keeps the chosen word inside the text."""
        groups = words(encode(self.settings["text"]).numpy()) if self.settings["text"] else np.zeros(0)
        if name == "text" and 2 <= len(groups) <= LONGEST and groups.max() < MOST_WORDS:
            slider = self.controls_by_name["token"]
            slider.value = min(slider.value, int(groups.max()) + 1)
            slider.max = int(groups.max()) + 1

    compute, draw, read_out = pure(by_name(compute), draw, read_out)
