"""Two nested loops: many writes inside one outer step, and the gradient that walks back through them."""

from itertools import pairwise

from tools.diagrams.shapes import SMALL, Drawing


def loops() -> Drawing:
    """The inner strip, the gradient's way back with its cut, and the outer loop below."""
    drawing = Drawing("two-loops", "Two loops, one inside the other", height=516)
    drawing.alt = (
        "A dashed frame, one outer step, holds a row: start W, four writes under the words The code is 7214, and "
        "an outer loss. A line for the gradient walks back from the loss under the writes, with arrows up into "
        "each write and down to what all writes share, projections, steps and gates. A vertical cut stands after "
        "the second write; left of it the line is dashed, as far as the start. Below, the outer loop: a row of "
        "such steps."
    )
    drawing.box(8, 38, 384, 268, frame=True)
    drawing.text(200, 54, "one outer step: read a text, look back once", anchor="middle", bold=True, size=SMALL)

    start = drawing.box(18, 128, 52, 44, "start\n{W}", symbol="W")
    writes = []
    for number, word in enumerate(("The", "code", "is", "7214")):
        x = 86 + 58 * number
        token = drawing.box(x, 88, 44, 24, word, size=SMALL)
        write = drawing.box(x, 128, 44, 44, "write", size=SMALL, symbol="W")
        drawing.arrow(token.bottom(), write.top())
        writes.append(write)
    loss = drawing.box(322, 128, 60, 44, "outer\nloss", symbol="error", new=True)
    for before, after in zip([start, *writes], [*writes, loss]):
        drawing.arrow(before.right(), after.left(), symbol="W")
    drawing.text(18, 74, "inner loop: writes", size=SMALL)

    words = "shared by all writes: projections of\n{k}, {v}, {q}; steps, gates"
    shared = drawing.box(18, 234, 290, 42, words, size=SMALL)
    # The gradient's road: below the writes, from the loss back to the start.
    road = 204
    cut = (writes[1].right()[0] + writes[2].left()[0]) / 2
    drawing.arrow(loss.bottom(), (loss.bottom()[0], road), (cut, road), symbol="error", head=False)
    drawing.arrow((cut, road), (start.bottom()[0], road), start.bottom(), symbol="error", dashed=True)
    for write in writes:
        x = write.bottom()[0]
        left = x < cut
        drawing.arrow((x, road), (x, 172), symbol="error", dashed=left, thick=1.4)
        drawing.arrow((x, road), (x, shared.y), symbol="error", dashed=left, thick=1.4)
    drawing.arrow((cut, 80), (cut, 228), dashed=True, head=False, thick=2.6)
    drawing.text(cut + 8, 74, "the cut", size=SMALL, bold=True)
    drawing.text(314, 246, "{error:gradient}\nwalks back", size=SMALL)
    said = "Left of a cut no gradient arrives."
    drawing.text(18, 291, said, size=SMALL, symbol="quiet")

    # The outer loop: each tick is one whole strip as above.
    drawing.text(18, 330, "outer loop: each step is such a strip", size=SMALL, bold=True)
    ticks = []
    for number, words in enumerate(("step 1", "step 2", "step 3", "step 4", "...")):
        ticks.append(drawing.box(18 + 62 * number, 346, 46, 30, words, size=SMALL))
    for before, after in pairwise(ticks):
        drawing.arrow(before.right(), after.left(), symbol="error")
    lasting = "changes for good: start, projections, steps, gates"
    drawing.text(18, 394, lasting, size=SMALL)
    rows = (
        ("exact", "the gradient goes through every write"),
        ("first order", "inner gradients count as constants"),
        ("stopped", "whole writes count as constants"),
    )
    for number, (name, words) in enumerate(rows):
        drawing.text(18, 430 + 22 * number, name, size=SMALL, bold=True)
        drawing.text(114, 430 + 22 * number, words, size=SMALL)
    return drawing
