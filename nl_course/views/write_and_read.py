"""Write and read: what happens when two things share a key?

The learner writes pairs by clicking and asks for every key. Keys have one exact cosine with each other, and value i is
the i-th unit vector, so that an answer can be read off: its numbers say how much of each value came back. The same
writes go to Hebb's rule, to the delta rule and to attention.
"""

import math

import ipywidgets as W
import numpy as np
import torch

from nl_course.errors import CourseError
from nl_course.tasks.pairs import Pairs, attended, written
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View

LETTERS = "ABCDEF"
WIDTH = 8
MOST = WIDTH  # writes: each brings a value of its own
RULES = {"Hebb": "hebb", "delta rule": "delta"}
MEMORIES = (*RULES, "attention")
DOMAINS = ((0.0, 0.27), (0.36, 0.63), (0.72, 0.99))


def keys_of(letters: str, similarity: float) -> torch.Tensor:
    """The unit key of each letter, (n, WIDTH), float64; any two different letters have the cosine `similarity`."""
    if not 0 <= similarity <= 1:
        raise CourseError(f"similarity must lie between 0 and 1, not {similarity}.")
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3)).double())[0]
    own = basis[[1 + LETTERS.index(letter) for letter in letters]]
    return math.sqrt(similarity) * basis[0] + math.sqrt(1 - similarity) * own


def tape_of(text: str) -> str:
    """The letters of a learner's tape, checked: 1 to MOST of LETTERS, blanks and commas ignored."""
    letters = "".join(text.upper().replace(",", " ").split())
    strange = sorted(set(letters) - set(LETTERS))
    if strange:
        raise CourseError(f"keys are the letters {LETTERS[0]} to {LETTERS[-1]}, not {', '.join(strange)}.")
    if not 1 <= len(letters) <= MOST:
        raise CourseError(f"write 1 to {MOST} pairs, not {len(letters)}: the values are {MOST} unit vectors.")
    return letters


def compute(
    tape: str, writes: int, similarity: float, step: float = 1.0, retention: float = 1.0, sharpness: float = 8.0
) -> dict:
    """After `writes` writes of the tape: `answers` of each memory (keys asked, values), the newest value of each key
    (`newest`, from 0), squared `error` of each answer, and each rule's matrix `before` and `after` the last write."""
    letters = tape_of(tape)[:writes]
    asked = "".join(dict.fromkeys(letters))  # each key once, in the order of its first write
    keys, queries = keys_of(letters, similarity), keys_of(asked, similarity)
    values = torch.eye(WIDTH, dtype=torch.float64)[: len(letters)]
    pairs = Pairs(keys[None], values[None])
    matrices = {name: written(pairs, rule, step, retention)[0] for name, rule in RULES.items()}
    if len(letters) > 1:
        earlier = Pairs(keys[None, :-1], values[None, :-1])
        before = {name: written(earlier, rule, step, retention)[0] for name, rule in RULES.items()}
    else:
        before = {name: torch.zeros(WIDTH, WIDTH, dtype=torch.float64) for name in RULES}
    answers = {name: queries @ matrix for name, matrix in matrices.items()}
    answers["attention"] = attended(pairs, queries[None], sharpness)[0]
    newest = [letters.rindex(letter) for letter in asked]
    true = torch.eye(WIDTH, dtype=torch.float64)[newest]
    return {
        "letters": letters,
        "asked": asked,
        "newest": newest,
        "similarity": similarity,
        "answers": {name: answer[:, : len(letters)].numpy() for name, answer in answers.items()},
        "error": {name: (answer - true).square().sum(1).numpy() for name, answer in answers.items()},
        "before": {name: matrix.numpy() for name, matrix in before.items()},
        "after": {name: matrix.numpy() for name, matrix in matrices.items()},
    }


def draw(arrays: dict, figure) -> None:
    """Above, the answers of the three memories to every key; below, one rule's matrix before and after the write."""
    letters, asked, rule = arrays["letters"], arrays["asked"], arrays["rule"]
    names, shapes = [f"{letter}→v{i}" for i, letter in enumerate(letters, 1)], []
    for i, memory in enumerate(MEMORIES, 1):
        figure.add_heatmap(
            z=arrays["answers"][memory], x=np.arange(1, len(letters) + 1), y=np.arange(1, len(asked) + 1), name=memory,
            xaxis=f"x{i}", yaxis=f"y{i}", coloraxis="coloraxis", texttemplate="%{z:.2f}", textfont=dict(size=11),
            hovertemplate="v%{x} in the answer: %{z:.3f}<extra></extra>",
        )  # fmt: skip
        for row, place in enumerate(arrays["newest"], 1):
            shapes.append(
                dict(type="rect", x0=place + 0.5, x1=place + 1.5, y0=row - 0.5, y1=row + 0.5, xref=f"x{i}",
                     yref=f"y{i}", line=dict(color=theme.INK, width=2))
            )  # fmt: skip
    before, after = arrays["before"][rule], arrays["after"][rule]
    places = np.arange(1, WIDTH + 1)
    for i, (name, z) in enumerate({"before": before, "the write": after - before, "after": after}.items(), 4):
        figure.add_heatmap(
            z=z, x=places, y=places, name=name, xaxis=f"x{i}", yaxis=f"y{i}", coloraxis="coloraxis",
            hovertemplate="row %{y}, column %{x}: %{z:.3f}<extra></extra>",
        )  # fmt: skip
    errors = {name: f"{arrays['error'][name].mean():.2f}" for name in MEMORIES}
    titles = [f"{name}: squared error {errors[name]}" for name in MEMORIES]
    titles += [f"{rule}: matrix before", f"the write of {names[-1]}", "matrix after"]
    layout = {}
    for i in range(1, 7):
        below = i > 3
        x, y = DOMAINS[(i - 1) % 3], (0.0, 0.36) if below else (0.58, 0.94)
        ticks = dict(dtick=1) if below else dict(tickvals=np.arange(1, len(letters) + 1), ticktext=names, tickangle=0)
        named = dict(dtick=1) if below else dict(tickvals=np.arange(1, len(asked) + 1), ticktext=list(asked))
        layout[f"xaxis{i}"] = dict(
            domain=x, anchor=f"y{i}", title="value's number" if below else "in the answer", **ticks
        )
        layout[f"yaxis{i}"] = dict(
            domain=y, anchor=f"x{i}", autorange="reversed", title="key's number" if below else "asked for", **named
        )
        layout[f"xaxis{i}"]["tickfont"] = dict(size=11)
    figure.update_layout(
        **layout, shapes=shapes, margin=dict(l=56, r=16, t=16, b=48),
        coloraxis=dict(colorscale=theme.SIGNS, cmid=0, cmin=-1.5, cmax=1.5,
                       colorbar=dict(thickness=10, title=dict(text="number", side="right"))),
        annotations=[
            dict(text=text, x=DOMAINS[i % 3][0], y=0.37 if i > 2 else 0.95, xref="paper", yref="paper",
                 xanchor="left", yanchor="bottom", showarrow=False)
            for i, text in enumerate(titles)
        ],
    )  # fmt: skip


def read_out(arrays: dict) -> str:
    """What each memory answers to the key that was written last."""
    letters = arrays["letters"]
    key, row, newest = letters[-1], arrays["asked"].index(letters[-1]), len(letters) - 1
    stale = [i for i, letter in enumerate(letters[:-1]) if letter == key]
    told = []
    for name in MEMORIES:
        answer = arrays["answers"][name][row]
        others = [i for i in range(len(letters)) if i != newest and i not in stale]
        part = f"{name} {answer[newest]:.2f} of it"
        part += f", {abs(answer[stale].sum()):.2f} of what it replaced" if stale else ""
        part += f", up to {np.abs(answer[others]).max():.2f} of another key's value" if others else ""
        told.append(f"{part} (squared error {arrays['error'][name][row]:.2f})")
    pairs = f"{len(letters)} {'write' if len(letters) == 1 else 'writes'}"
    return (
        f"After {pairs}, keys' cosine {arrays['similarity']:.2f}: asked for {key}, whose newest value is "
        f"v{newest + 1}, the answers hold: {'; '.join(told)}."
    )


def outcome(arrays: dict) -> str | None:
    """The memory nearest to the new value of a key that was written twice; None before that."""
    letters = arrays["letters"]
    if letters[-1] not in letters[:-1] or arrays["similarity"] == 0:
        return None
    row = arrays["asked"].index(letters[-1])
    return min(MEMORIES, key=lambda name: arrays["error"][name][row])


class WriteAndRead(View):
    """Six keys, eight values, three memories; buttons write, the slider goes back and forth along the tape."""

    name = "write-and-read"
    title = "What happens when two things share a key?"
    prediction = Prediction(
        "Keys have cosine 0.5. A is written again with a new value: whose answer to A comes nearest to the new one?",
        outcome,
        options=MEMORIES,
        until="Step to the second A.",
        why="The delta rule writes the error: the old value goes out as the new one comes in, where Hebb adds "
        "the two and attention mixes them.",
    )
    step_by = "writes"
    width, height = 920, 420

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: tape, clear, similarity, writes."""
        tape = W.Text(value="A B C D A", description="Keys written, in order")
        buttons = {f"write_{letter}": self._button(letter, tape) for letter in LETTERS}
        clear = W.Button(description="Start again", tooltip="Writes only A")
        clear.on_click(lambda _: self.set(tape="A", writes=1))
        clear.layout.width = "110px"
        return {
            "tape": tape,
            **buttons,
            "clear": clear,
            "similarity": W.FloatSlider(value=0.5, min=0, max=1, step=0.05, description="Cosine of any two keys"),
            "writes": W.IntSlider(value=4, min=1, max=5, description="Writes done"),
        }

    def _button(self, letter: str, tape: W.Text) -> W.Button:
        """A button that writes a new value under `letter`."""
        button = W.Button(description=f"Write {letter}", tooltip=f"A new value under the key {letter}")
        button.layout.width = "76px"

        def write(_):
            """Adds the letter to the tape and goes to its end."""
            with self._words():
                letters = tape_of(f"{tape.value}{letter}")
                self.set(tape=" ".join(letters), writes=len(letters))

        button.on_click(write)
        return button

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: rule, step, retention, sharpness."""
        return {
            "rule": W.ToggleButtons(options=list(RULES), description="Matrix shown of"),
            "step": W.FloatSlider(value=1, min=0, max=2, step=0.05, description="Step of a write"),
            "retention": W.FloatSlider(
                value=1, min=0, max=1, step=0.05, description="Retention: share kept at a write"
            ),
            "sharpness": W.FloatSlider(value=8, min=0, max=32, step=0.5, description="Sharpness of attention"),
        }

    def adjust(self, name):
        """The slider ends where the tape ends."""
        if name == "tape":
            try:
                last = len(tape_of(self.settings["tape"]))
            except CourseError:
                return  # `compute` says what is wrong
            slider = self.controls_by_name["writes"]
            slider.max, slider.value = last, last

    def compute(self, settings):
        """What the picture shows at these settings."""
        s = dict(settings)
        rule = s.pop("rule")
        return {**compute(**s), "rule": rule}

    def draw(self, arrays, figure):
        """Draws what `compute` returned into an empty figure."""
        draw(arrays, figure)

    def read_out(self, arrays):
        """The sentence under the picture."""
        return read_out(arrays)
