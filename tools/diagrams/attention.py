"""An attention block: what it appends per token, what it reads."""

from itertools import pairwise

from tools.diagrams.shapes import SMALL, Drawing, Rect


def attention() -> Drawing:
    """Attention with its cache, and below it the block that it stands in."""
    drawing = Drawing("attention-cache", "Attention and its cache", height=560)
    drawing.alt = (
        "Five words of a text, the last one current. 1, project: three matrices make its key, value and query. 4, "
        "write: key and value become one more column of the cache, beside the columns of all earlier words. The "
        "query is compared with every key, and softmax makes shares. 5, read: the answer mixes all values by "
        "their shares. Below, the block: norm, attention, norm, MLP, with two residual paths."
    )
    words = ("The", "ferry", "leaves", "at", "nine")
    for number, word in enumerate(words):
        token = drawing.box(26 + 74 * number, 38, 64, 26, word, new=word == words[-1])
    maps = drawing.box(26, 88, 360, 28, "three trained matrices")
    drawing.arrow(token.bottom(), (token.bottom()[0], 88))
    drawing.step(1, 250, 76, "project")

    k = drawing.box(26, 134, 106, 44, "key {k}\nwhere", symbol="k")
    v = drawing.box(142, 134, 116, 44, "value {v}\nwhat", symbol="v")
    q = drawing.box(270, 134, 116, 44, "query {q}\nwhat is asked", symbol="q")
    for chip, symbol in ((k, "k"), (v, "v"), (q, "q")):
        drawing.arrow((chip.top()[0], maps.bottom()[1]), chip.top(), symbol=symbol)

    cache = drawing.box(26, 218, 232, 118)
    drawing.text(142, 233, "the cache, one column per token", size=SMALL, anchor="middle", inside=cache)
    drawing.text(36, 262, "keys", size=SMALL, inside=cache)
    drawing.text(36, 302, "values", size=SMALL, inside=cache)
    drawing.grid(92, 246, 150, 32, 5, 4, "k", new=1)
    drawing.grid(92, 286, 150, 32, 5, 4, "v", new=1)
    drawing.arrow(k.bottom(), cache.top(53 / 232), symbol="k")
    drawing.arrow(v.bottom(), cache.top(174 / 232), symbol="v")
    drawing.step(4, 98, 199, "write")

    shares = drawing.box(270, 244, 116, 62, "shares:\nsoftmax of\n{q} {k:kᵀ} / √d", symbol="q")
    drawing.arrow(q.bottom(), shares.top(), symbol="q")
    drawing.arrow(cache.right(57 / 118), shares.left(31 / 62), symbol="k")
    answer = drawing.box(26, 378, 360, 30, "answer: all values {v}, each by its share")
    drawing.arrow(cache.bottom(174 / 232), answer.top(174 / 360), symbol="v")
    drawing.arrow(shares.bottom(), answer.top(302 / 360), symbol="q")
    drawing.step(5, 222, 358, "read")
    said = "There is no 2 and no 3: attention never asks what it\nholds already. It corrects nothing and loses nothing."
    drawing.text(200, 430, said, size=SMALL, anchor="middle", symbol="quiet")
    _block(drawing, 500)
    return drawing


def _block(drawing: Drawing, y: float) -> None:
    """Norm, attention, norm, MLP, and the two residual paths round them."""
    parts = (("x", 24), ("norm", 48), ("attention", 76), ("+", 22), ("norm", 48), ("MLP", 42), ("+", 22))
    boxes: list[Rect] = []
    x = 14.0
    for words, width in parts:
        boxes.append(drawing.box(x, y, width, 28, words, size=SMALL, new=words == "attention"))
        x += width + 15
    for before, after in pairwise(boxes):
        drawing.arrow(before.right(), after.left())
    for start, end in ((boxes[0], boxes[3]), (boxes[3], boxes[6])):
        over = start.top(0.75), end.top(0.25)
        drawing.arrow(over[0], (over[0][0], y - 14), (over[1][0], y - 14), over[1])
    drawing.text(200, y + 44, "the block it stands in", size=SMALL, anchor="middle", symbol="quiet")
