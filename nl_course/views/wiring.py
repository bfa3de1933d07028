"""The wiring of Titans: what does each part of MAC, MAG, MAL and the memory alone see, and what is it worth?

Behrouz, Zhong and Mirrokni 2024, arXiv 2501.00663, section 4. Above, the wiring in the order of its operations, with
the chosen word's path lit. Below, measured on a real layer (wiring_measure.py): which earlier words change what each
part says, which part keeps how many bytes, and what becomes of the output, or of the recall of a needle, without it.
"""

import ipywidgets as W
import numpy as np

from nl_course.errors import CourseError, check_choice
from nl_course.tasks.text import encode
from nl_course.views import wiring_drawing as drawing
from nl_course.views.attention_reading import words
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure
from nl_course.views.wiring_measure import CUTS, KINDS, LONGEST, MOST_WORDS, measure, recall, trained

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
    return ANSWERS[0] if first == 1 else ANSWERS[2] if first == arrays["token"] else ANSWERS[1]


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
    )
    step_by = "token"
    continuous = False
    width, height = 920, 640

    def controls(self):
        last = int(words(encode(TEXT).numpy()).max()) + 1
        return {
            "kind": W.ToggleButtons(
                options=list(KINDS), value="MAC", description="Wiring", style={"button_width": "70px"}
            ),
            "cut": W.ToggleButtons(options=CUTS, value=CUTS[0], description="Cut", style={"button_width": "90px"}),
            "token": W.IntSlider(value=last, min=1, max=last, description="Word"),
        }

    def more_controls(self):
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

    compute, draw, read_out = pure(by_name(compute), drawing.draw, read_out)
