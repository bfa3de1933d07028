"""One machine, drawn once: a memory that learns while it reads. Its kinds differ in one part each."""

from dataclasses import dataclass, replace

from tools.diagrams.shapes import SMALL, Drawing

LEFT, CENTER, RIGHT = 26, 142, 270  # where the three columns begin
W = 106, 116, 116  # how wide they are


@dataclass(frozen=True)
class Kind:
    """What stands in each part of the machine. `new` names the parts that are drawn thick.

    An empty `prediction` is a memory that writes without asking itself first. `shades` are the rows of the old memory
    after it has faded, from 0, nothing left, to 1. With `reads_old` a token is read without its own write.
    """

    name: str
    title: str
    maps: str = "three trained matrices"
    network: str = "f(x) = x W"
    layers: int = 1
    prediction: str = "{W:f}({k})"
    error: str = "{v} − {W:f}({k})"
    write: str = ""
    carried: str = "{W}"
    read: str = "{W:f}({q})"
    new: tuple[str, ...] = ()
    beside: str = ""
    reads_old: bool = False
    shades: tuple[float, ...] = ()
    alt: str = ""


def machine(kind: Kind) -> Drawing:
    """The drawing of one kind. From top to bottom: token, k v q, and below them the five steps in three columns."""
    drawing = Drawing(kind.name, kind.title, height=584 if kind.beside else 560, alt=kind.alt)
    new = {part: part in kind.new for part in ("maps", "memory", "prediction", "error", "write", "carried")}

    token = drawing.box(CENTER, 38, W[1], 26, "one token x")
    maps = drawing.box(LEFT, 84, 360, 28, kind.maps, new=new["maps"])
    drawing.arrow(token.bottom(), maps.top(174 / 360))
    drawing.step(1, 40, 66, "project")

    k = drawing.box(LEFT, 130, W[0], 44, "key {k}\nwhere", symbol="k")
    v = drawing.box(CENTER, 130, W[1], 44, "value {v}\nwhat", symbol="v")
    q = drawing.box(RIGHT, 130, W[2], 44, "query {q}\nwhat is asked", symbol="q")
    for chip, symbol in ((k, "k"), (v, "v"), (q, "q")):
        x, y = chip.top()
        drawing.arrow((x, 112), (x, y), symbol=symbol)

    before = _memory(drawing, LEFT, 202, W[0], "old memory {W}", kind, new["memory"], kind.shades)
    asks = bool(kind.prediction)
    drawing.arrow(k.bottom(), before.top(), symbol="k")
    # A memory that asks nothing has an empty place here.
    kept = {"symbol": "W", "new": new["prediction"]} if asks else {"faint": True}
    prediction = drawing.box(LEFT, 334, W[0], 32, kind.prediction or "nothing", **kept)
    if asks:
        drawing.arrow(before.bottom(), prediction.top(), symbol="W")
        drawing.step(2, 92, 316, "predict")
    error = drawing.box(CENTER, 334, W[1], 32, kind.error, symbol="error" if asks else "v", new=new["error"])
    drawing.arrow(v.bottom(), error.top(), symbol="v")
    if asks:
        drawing.arrow(prediction.right(), error.left(), symbol="W")
        drawing.step(3, 216, 316, "error")

    write = drawing.box(LEFT, 402, 232, 78, kind.write, symbol="W", new=new["write"])
    drawing.arrow(error.bottom(), write.top((200 - LEFT) / 232), symbol="error" if asks else "v")
    drawing.step(4, 92, 384, "write")
    # The old memory goes into the write too, round the outside.
    drawing.arrow(before.left(), (13, before.left()[1]), (13, 441), write.left(), symbol="W")

    whose = "old" if kind.reads_old else "new"
    faded_no_more = replace(kind, network="f(x) = x W") if kind.shades else kind
    after = _memory(drawing, RIGHT, 392, W[2], whose + " memory {W}", faded_no_more, kind.reads_old)
    if not kind.reads_old:
        drawing.arrow(write.right(), after.left(), symbol="W")
    drawing.arrow(q.bottom(), after.top(), symbol="q")

    answer = drawing.box(RIGHT, 518, W[2], 30, kind.read, symbol="q")
    drawing.arrow(after.bottom(), answer.top(), symbol="W")
    drawing.step(5, 344, 504, "read")
    carried = drawing.box(
        LEFT, 504, 232, 44, "the next token begins with\n" + kind.carried, size=SMALL, new=new["carried"]
    )
    drawing.arrow(write.bottom(), carried.top(), symbol="W")
    if kind.beside:
        drawing.text(200, 567, f"thick lines: new beside {kind.beside}", size=SMALL, anchor="middle", symbol="quiet")
    return drawing


def _memory(drawing: Drawing, x: float, y: float, width: float, words: str, kind: Kind, new: bool, shades=()):
    """The memory: its name, its matrices as grids, what it computes."""
    box = drawing.box(x, y, width, 98, symbol="W", new=new)
    drawing.text(x + width / 2, y + 14, words, size=SMALL, anchor="middle", inside=box)
    if kind.layers == 1:
        drawing.grid(x + width / 2 - 22, y + 27, 44, 44, 5, 5, "W", shades=shades)
    else:
        drawing.grid(x + width / 2 - 44, y + 34, 40, 30, 6, 4, "W")
        drawing.grid(x + width / 2 + 8, y + 27, 30, 44, 4, 6, "W")
    drawing.text(x + width / 2, y + 85, kind.network, size=SMALL, anchor="middle", inside=box)
    return box


KINDS = (
    Kind(
        "memory-machine",
        "A memory that learns while it reads",
        network="a small model",
        prediction="answer to {k}",
        error="{v} − answer",
        write="change {W} a little, so that\nit says {v} under {k} next time",
        carried="the changed {W}, nothing else",
        read="answer to {q}",
        alt=(
            "A flow from top to bottom in five numbered steps. 1, project: one token becomes a key, a value and a "
            "query. 2, predict: the old memory W answers the key. 3, error: the value less that answer. 4, write: "
            "W is changed a little by the error, and the next token begins with it. 5, read: the new W answers "
            "the query."
        ),
    ),
    Kind(
        "memory-hebb",
        "Hebb's rule: write without asking",
        prediction="",
        error="{v}, as it is",
        write="{W} ← {W} + {k:kᵀ} {v}",
        read="{q} {W}",
        carried="{W}, one matrix",
        alt=(
            "The machine in five steps, with two of them empty. The memory is one matrix W. Nothing is predicted, "
            "and the value goes into the write as it is: W becomes W plus the outer product of key and value. The "
            "new W answers the query."
        ),
    ),
    Kind(
        "memory-delta",
        "The delta rule: write the difference",
        prediction="{k} {W}",
        error="{v} − {k} {W}",
        write="{W} ← {W} + β {k:kᵀ} ({error:v − k W})",
        read="{q} {W}",
        carried="{W}, one matrix",
        new=("prediction", "error"),
        beside="Hebb's rule",
        alt=(
            "The same machine with steps 2 and 3 drawn thick. The old matrix W predicts k W, the error is v less "
            "k W, and the write adds the step β times the outer product of the key and that error. The new W "
            "answers the query with q W."
        ),
    ),
    Kind(
        "memory-gated-delta",
        "Gated DeltaNet: fade, then the delta rule",
        network="first × α",
        shades=(0.14,) * 5,
        prediction="{k} {W}",
        error="{v} − {k} {W}",
        write="{W} ← {W} + β {k:kᵀ} ({error:v − k W})\nwith the faded {W}",
        read="{q} {W}",
        carried="{W}, one matrix",
        new=("memory",),
        beside="the delta rule",
        alt=(
            "The delta rule's machine with the old memory drawn thick. Its grid is pale, because the whole matrix "
            "is multiplied by α before it is asked. Prediction, error and write then use the faded matrix."
        ),
    ),
    Kind(
        "memory-kda",
        "KDA: every row fades at its own rate",
        network="row i: × αᵢ",
        shades=(0.5, 0.1, 0.35, 0.2, 0.06),
        prediction="{k} {W}",
        error="{v} − {k} {W}",
        write="{W} ← {W} + β {k:kᵀ} ({error:v − k W})\nwith the faded {W}",
        read="{q} {W}",
        carried="{W}, one matrix",
        new=("memory",),
        beside="Gated DeltaNet",
        alt=(
            "Gated DeltaNet's machine with the old memory drawn thick. Each row of its grid has a shade of its "
            "own, because row i is multiplied by a retention of its own, α with index i, before the matrix is "
            "asked."
        ),
    ),
    Kind(
        "memory-ttt-linear",
        "TTT-Linear: a write is a training step",
        network="x + LN(x {W})",
        write="{W} ← {W} − η × gradient\nof ½ |{error:v − f(k)}|²",
        carried="{W}, and a sum of gradients",
        new=("memory", "write"),
        beside="the delta rule",
        alt=(
            "The delta rule's machine with memory and write drawn thick. The memory is a model, x plus the layer "
            "norm of x W, which predicts f of k. The write is a training step: W less the step η times the "
            "gradient of half the squared error. The next token begins with W and a sum of gradients."
        ),
    ),
    Kind(
        "memory-ttt-mlp",
        "TTT-MLP: the memory is a network",
        network="two layers",
        layers=2,
        write="{W} ← {W} − η × gradient\nof ½ |{error:v − f(k)}|²",
        carried="{W}, and a sum of gradients",
        new=("memory",),
        beside="TTT-Linear",
        alt=(
            "TTT-Linear's machine with the memory drawn thick: it is a network of two layers, drawn as two grids. "
            "Prediction, error, write and read stay as they were."
        ),
    ),
    Kind(
        "memory-lmm",
        "Titans' memory: momentum and retention",
        network="two layers",
        layers=2,
        write="{surprise} = ∇ ½ |{error:v − f(k)}|²\nS ← η S − θ {surprise}\n{W} ← (1 − α) {W} + S",
        carried="{W}, and past surprise S",
        new=("write", "carried"),
        beside="TTT-MLP",
        alt=(
            "TTT-MLP's machine with write and carry drawn thick. The gradient is called surprise. Past surprise S "
            "becomes η S less θ times surprise, and W becomes 1 less α times W, plus S. The next token begins "
            "with W and S."
        ),
    ),
    Kind(
        "memory-self-modifying",
        "Self-modifying: it writes its own rule",
        maps="memories make them, and are written too",
        network="two layers",
        layers=2,
        error="{W:f}({v}) − {W:f}({k})",
        write="every memory, at the same {k}:\nerase along {k}, then a step\ntowards what it says of {v} itself",
        carried="all memories: of k, v, step, ...",
        new=("maps", "error", "write", "carried"),
        reads_old=True,
        beside="Titans' memory",
        alt=(
            "Titans' machine with five parts drawn thick. Memories make key, value, step and retention, and are "
            "written too. The error is what a memory says of the value less what it says of the key. Every memory "
            "is written at the same key. The query is answered by the old memory, without this token's write."
        ),
    ),
)
