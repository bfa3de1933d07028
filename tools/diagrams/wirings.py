"""Titans' memory beside attention, in three wirings: as context, as gate, as layer."""

from itertools import pairwise

from tools.diagrams.shapes import SMALL, Drawing, Point, Rect

COLUMN = 124  # from one wiring to the next


def wirings() -> Drawing:
    """MAC, MAG and MAL side by side, as the course wires them: nl_course/memories/titans/{mac,mag,mal}.py."""
    drawing = Drawing("titans-wirings", "Three ways to join memory and attention", height=574)
    drawing.alt = (
        "Three columns, from the input at the top to the output at the bottom. MAC: the old memory is read first, "
        "attention reads persistent tokens, that answer and the segment, the input is added, the sum y is written "
        "and read, and a gate of y multiplies what was read. MAG: attention over a window and the memory read the "
        "same token side by side, and they meet in the gate. MAL: the memory with its gate comes first, then norm "
        "and window attention, and the memory's output goes round attention too."
    )
    names = (("MAC", "as context"), ("MAG", "as gate"), ("MAL", "as layer"))
    for number, (name, words) in enumerate(names):
        x = 14 + COLUMN * number
        drawing.box(x, 38, 120, 488, frame=True)
        drawing.text(x + 60, 54, name, anchor="middle", bold=True)
        drawing.text(x + 60, 72, words, anchor="middle", size=SMALL, symbol="quiet")
    _context(drawing, 14)
    _gate(drawing, 14 + COLUMN)
    _layer(drawing, 14 + 2 * COLUMN)
    said = "4 write, 5 read. P: persistent tokens.\nLines at the side of a box: residual paths."
    drawing.text(200, 542, said, size=SMALL, anchor="middle", symbol="quiet")
    return drawing


def _part(drawing: Drawing, column: float, y: float, words: str, symbol: str = "", x: float = 8, w: float = 94) -> Rect:
    """A box inside a column, two or three lines high."""
    lines = words.count("\n") + 1
    return drawing.box(column + x, y, w, 10 + 17 * lines, words, symbol=symbol, size=SMALL)


def _plus(drawing: Drawing, column: float, x: float, y: float) -> Rect:
    """A sum."""
    return drawing.box(column + x - 10, y, 20, 20, "+", size=SMALL)


def _round(drawing: Drawing, start: Point, lane: float, end: Point) -> None:
    """A residual path: from a point out to a lane, down, and back to the side of a sum."""
    (_, y), (_, y_end) = start, end
    drawing.arrow(start, (lane, y), (lane, y_end), end, thick=1.4)


def _context(drawing: Drawing, column: float) -> None:
    token = _part(drawing, column, 88, "segment x")
    asked = _part(drawing, column, 136, "h = {W}({q}),\nold {W}", "W")
    attention = _part(drawing, column, 204, "attention\nover P, h, x", "q")
    plus = _plus(drawing, column, 55, 286)
    memory = _part(drawing, column, 326, "write y\ninto {W},\nread {W}({q})", "W")
    gate = _part(drawing, column, 410, "× gate of y,\nprojection")
    out = _part(drawing, column, 476, "output")
    chain = [token, asked, attention, plus, memory, gate, out]
    for before, after in pairwise(chain):
        drawing.arrow(before.bottom(), after.top(), symbol="W" if before in (asked, memory) else "ink")
    _round(drawing, token.right(), column + 111, plus.right())
    drawing.step(5, column + 18, 124)
    drawing.step(4, column + 13, 315)
    drawing.step(5, column + 33, 315)
    drawing.text(column + 62, 316, "y", size=SMALL)
    y_lane = column + 111
    drawing.arrow((column + 55, 308), (y_lane, 308), (y_lane, gate.right()[1]), gate.right(), thick=1.4)


def _gate(drawing: Drawing, column: float) -> None:
    right = column + 102
    token = _part(drawing, column, 88, "token x", w=104)
    attention = _part(drawing, column, 136, "attention\nover P and\na window", "q", w=78)
    drawing.arrow((column + 40, token.bottom()[1]), (column + 40, attention.y))
    plus = _plus(drawing, column, 40, 222)
    drawing.arrow((column + 40, attention.bottom()[1]), plus.top())
    memory = _part(drawing, column, 276, "write x\ninto {W},\nread {W}({q})", "W", x=28, w=88)
    drawing.arrow((right, token.bottom()[1]), (right, memory.y))
    drawing.arrow((right, plus.right()[1]), plus.right(), thick=1.4)
    gate = _part(drawing, column, 410, "× gate of y,\nprojection", w=104)
    drawing.arrow(plus.left(), (column + 16, plus.left()[1]), (column + 16, gate.y))
    drawing.arrow((column + 72, memory.bottom()[1]), (column + 72, gate.y), symbol="W")
    drawing.text(column + 21, 386, "y", size=SMALL)
    out = _part(drawing, column, 476, "output", w=104)
    drawing.arrow(gate.bottom(), out.top())
    drawing.step(4, column + 50, 262)
    drawing.step(5, column + 70, 262)


def _layer(drawing: Drawing, column: float) -> None:
    token = _part(drawing, column, 88, "token x")
    memory = _part(drawing, column, 136, "write x\ninto {W},\nread {W}({q})", "W")
    gate = _part(drawing, column, 214, "× gate of x,\nprojection")
    plus = _plus(drawing, column, 55, 280)
    norm = _part(drawing, column, 320, "norm")
    attention = _part(drawing, column, 366, "attention\nover P and\na window", "q")
    last = _plus(drawing, column, 55, 444)
    out = _part(drawing, column, 476, "output")
    chain = [token, memory, gate, plus, norm, attention, last, out]
    for before, after in pairwise(chain):
        drawing.arrow(before.bottom(), after.top(), symbol="W" if before in (memory, gate) else "ink")
    _round(drawing, token.right(), column + 111, plus.right())
    # What the memory said goes round attention too.
    drawing.arrow(
        (column + 55, 268), (column + 4, 268), (column + 4, last.left()[1]), last.left(), symbol="W", thick=1.4
    )
    drawing.step(4, column + 18, 124)
    drawing.step(5, column + 38, 124)
