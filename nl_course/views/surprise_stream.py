"""The surprise stream: what does a surprised memory do next?

The learner's own text, a needle dropped into it, and Titans' long-term memory reading both word by word (Behrouz, Zhong
and Mirrokni 2024, arXiv 2501.00663, equations 9 to 15). The memory is the course's own `NeuralMemory`; nothing in it is
trained. A word's value is a random direction of its own, its key one that belongs to the two words before it, and the
gates are set by hand. So a word surprises the memory as far as it did not follow these two words earlier.

The needle's last word is what should be recalled. At every word of the text the memory is asked the needle's question,
that is, the key of its last word: its answer's cosine with the needle's value, beside the best other word written.
"""

import math
import zlib
from functools import lru_cache
from itertools import pairwise

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nl_course.errors import CourseError, check_int, check_min
from nl_course.memories.linear import half_life
from nl_course.memories.titans.chunk import Gates, chunk_masks
from nl_course.memories.titans.neural import NeuralConfig, NeuralMemory
from nl_course.memories.titans.trace import explain
from nl_course.memories.trace import Trace
from nl_course.seeding import seeded
from nl_course.views import surprise_drawing as drawing
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure

WIDTH, EXPANSION = 64, 2
LONGEST = 120  # words
TEXT = (
    "The ferry leaves the harbour at nine. The wind is cold and the sea is grey. A woman on the pier counts the gulls "
    "and gives up. The ferry leaves the harbour at ten. The wind is cold and the sea is grey. A man on the pier counts "
    "the clouds and falls asleep. The last ferry leaves the harbour at noon."
)
NEEDLE = "My locker code is 7214."
TRACED = ("surprise", "past_surprise", "retention", "momentum", "read", "loss_before")
CHUNKS = (1, 4, 16)
BLOWN = 1000  # a write of this norm counts as blown up; they begin near 1


def dropped(text: str, needle: str, place: int) -> tuple[list[str], int]:
    """The words of the text with the needle after its word `place` (0: before all), and where the needle's last word
    then stands, from 0."""
    words, own = text.split(), needle.split()
    if len(own) < 2:
        raise CourseError("the needle must have at least two words: the last is what the others should recall.")
    if not 2 <= len(words) + len(own) <= LONGEST:
        raise CourseError(f"text and needle may have {LONGEST} words together, not {len(words) + len(own)}.")
    if not 0 <= place <= len(words):
        raise CourseError(f"the needle cannot stand after word {place}: the text has {len(words)}.")
    return words[:place] + own + words[place:], place + len(own) - 1


def _plain(word: str) -> str:
    return word.strip(".,;:!?\"'()“”").lower() or word


@lru_cache(maxsize=4096)
def direction(words: str) -> Tensor:
    """A fixed random direction for one word, or for two that stand together: (WIDTH,), of length 1."""
    generator = torch.Generator().manual_seed(zlib.crc32(words.encode()))
    return normalize(torch.randn(WIDTH, generator=generator), dim=0)


def pairs(words: list[str]) -> tuple[Tensor, Tensor]:
    """Keys and values of all words, (t, WIDTH) each, of length 1."""
    plain = ["", "", *(_plain(word) for word in words)]
    keys = [direction(f"{further} {nearer}") for further, nearer in pairwise(plain[:-1])]
    return torch.stack(keys), torch.stack([direction(word) for word in plain[2:]])


@lru_cache(maxsize=16)
def memory(depth: int, chunk: int) -> NeuralMemory:
    """An untrained memory of one head: random layers, but for the last, which is zero, so that it knows nothing."""
    with seeded(depth), torch.no_grad():
        neural = NeuralMemory(NeuralConfig(WIDTH, 1, depth, EXPANSION, chunk=chunk, conv=0, persistent=0))
        neural.start[f"W{depth}"].zero_()
    return neural.requires_grad_(False)


def gates_of(words: list[str], step: float, momentum: float, retention: float, sentence: float) -> Gates:
    """The same gates at every word, (1, 1, t); at a sentence's end the retention is multiplied by `sentence`."""
    check_min("step", step, 0)
    for name, value in (("momentum", momentum), ("retention", retention), ("kept at a sentence's end", sentence)):
        if not 0 <= value <= 1:
            raise CourseError(f"{name} must lie between 0 and 1, not {value}.")
    ends = torch.tensor([word.rstrip("\"'”)")[-1:] in (".", "!", "?") for word in words])
    kept = torch.where(ends, retention * sentence, retention).clamp_min(1e-12)
    whole_text = torch.ones(1, 1, len(words))
    return Gates(step * whole_text, (whole_text * max(momentum, 1e-12)).log(), kept.log().expand(1, 1, -1))


def response(gates: Gates, place: int) -> np.ndarray:
    """How much of the write at `place` stands in the memory at each later word, in units of its step: exact, a column
    of the chunk's mask, sum_j prod_{j < r <= t} retention_r prod_{place < i <= j} momentum_i. (t - place,)"""
    unit = gates._replace(step=torch.ones_like(gates.step)).map(lambda g: g.double())
    return chunk_masks(unit).G[0, 0, place:, place].numpy()


def strongest(stands: np.ndarray) -> int:
    """After how many words a write stands strongest, the first of equals."""
    return int(np.flatnonzero(stands >= stands.max() * (1 - 1e-6))[0])


def compute(
    text: str, needle: str, place: int, momentum: float, step: float, retention: float, depth: int = 1,
    chunk: int = 1, sentence: float = 1.0,
) -> dict:  # fmt: skip
    """One reading, word by word: what the memory did, what it answers to the needle's question, and the response."""
    words, at = dropped(text, needle, place)
    keys, values = pairs(words)
    gates = gates_of(words, step, momentum, retention, sentence)
    neural, trace = memory(check_int("depth", depth, 1), chunk), Trace(TRACED)
    asked = keys[at].expand_as(keys)  # every word asks the needle's question; asking writes nothing
    explain(trace, neural, neural.init_state(1), 0, *(u[None, None] for u in (asked, keys, values)), gates)
    found = {name: trace[name][0, :, 0].numpy() for name in TRACED}
    recall, other, rank, known = _answers(found.pop("read"), words, values.numpy(), at)
    return {
        "words": words, "place": place, "at": at, "momentum_set": momentum, "step": step, "retention_set": retention,
        "depth": depth, "chunk": chunk, "sentence": sentence, **found, "recall": recall, "other": other,
        "rank": rank, "known": known, "response": response(gates, at), "half_life": half_life(retention),
    }  # fmt: skip


def _answers(read: np.ndarray, words: list[str], values: np.ndarray, at: int) -> tuple[np.ndarray, ...]:
    """By word: the answer's cosine with the needle's value and with the best other word written by then (0 where there
    is no answer), the needle's rank among them (a draw counts against it), and how many words that are."""
    plain, read = [_plain(word) for word in words], np.where(np.isfinite(read).all(1, keepdims=True), read, 0.0)
    first = {word: plain.index(word) for word in dict.fromkeys(plain) if word != plain[at]}
    if not first:
        raise CourseError(
            "the text and the needle are one word over and over; recall needs at least two different words."
        )
    largest = np.abs(read).max(axis=1, keepdims=True)  # first, since squares of what has blown up would overflow
    answer = np.where(largest > 1e-6, read / np.maximum(largest, 1e-6), 0.0)
    answer = answer / np.maximum(np.linalg.norm(answer, axis=1, keepdims=True), 1e-6)
    recall = answer @ values[at]
    others = answer @ values[list(first.values())].T
    written = np.arange(len(words))[:, None] >= np.array(list(first.values()))
    others = np.where(written, others, -np.inf)
    best = others.max(axis=1)
    return recall, np.where(np.isfinite(best), best, np.nan), 1 + (others >= recall[:, None]).sum(1), 1 + written.sum(1)


def read_out(arrays: dict) -> str:
    """The needle's surprise, how long it is recalled, the response to one write and the half-life, in words."""
    at, words, stands = arrays["at"], arrays["words"], arrays["response"]
    word, after, surprise, ranks = _plain(words[at]), len(words) - at - 1, arrays["surprise"], arrays["rank"]
    peak, life = strongest(stands), arrays["half_life"]
    right = int((ranks[at + 1 :] == 1).sum())
    faded = "nothing fades" if math.isinf(life) else f"half is left after {life:.1f} words"
    blown = np.flatnonzero(~(arrays["past_surprise"] < BLOWN))
    if len(blown):
        recalled = f"The writes grow without bound and pass {BLOWN:,} at word {blown[0] + 1}: the memory has blown up."
    else:
        recalled = (
            f"Asked for it after each of the {after} words that follow, the memory is right {right} "
            f"times; at the end its answer has cosine {arrays['recall'][-1]:.2f}, rank {ranks[-1]} of "
            f"{arrays['known'][-1]} words."
        )
    if np.isfinite(surprise[at]):
        surprised = (
            f"surprises the memory by {surprise[at]:.2f} (the middle of all words: {np.nanmedian(surprise):.2f})"
        )
    else:
        surprised = "meets a memory whose weights are no numbers any more, so its surprise is none either"
    return (
        f"“{word}”, word {at + 1} of {len(words)}, {surprised}. {recalled} One write stands strongest "
        f"{peak} words later, at {stands[peak]:.2f} times its step, and at {stands[-1]:.2f} at the end. With retention "
        f"{arrays['retention_set']:g}, {faded}."
    )


ANSWERS = ("at once", "some words later", "at the end of the text")
ASKED = 0.8  # the momentum that the prediction asks about


def outcome(arrays: dict) -> str | None:
    """When one write stands strongest; None until momentum was set as asked, with room for it behind the needle."""
    stands = arrays["response"]
    if arrays["momentum_set"] != ASKED or len(stands) < 30 or arrays["retention_set"] == 1:
        return None
    peak = strongest(stands)
    return ANSWERS[0] if peak == 0 else ANSWERS[2] if peak == len(stands) - 1 else ANSWERS[1]


class SurpriseStream(View):
    """A text, a needle in it, and the memory's surprise, momentum, forgetting and recall, word by word."""

    name = "surprise-stream"
    title = "What does a surprised memory do next?"
    prediction = Prediction(
        f"Now momentum is 0: a write stands strongest at once. With momentum {ASKED:g}, when does the memory hold most "
        "of what the needle wrote?",
        outcome,
        options=ANSWERS,
        until=f"Set momentum to {ASKED:g}, with the needle in the first half of the text.",
    )
    step_by = "place"
    width, height = 920, 420

    def controls(self):
        wide = W.Layout(width="860px", max_width="100%")
        return {
            "text": W.Textarea(value=TEXT, rows=3, description="Your text", layout=wide),
            "needle": W.Text(value=NEEDLE, description="The needle"),
            "place": W.IntSlider(value=14, min=0, max=len(TEXT.split()), description="Dropped after word"),
            "momentum": W.FloatSlider(value=0, min=0, max=0.95, step=0.05, description="Momentum"),
            "step": W.FloatSlider(value=0.7, min=0, max=1.5, step=0.05, description="Step"),
            "retention": W.FloatSlider(value=0.98, min=0.8, max=1, step=0.01, description="Retention"),
            "depth": W.IntSlider(value=1, min=1, max=3, description="Depth of the memory"),
        }

    def more_controls(self):
        return {
            "sentence": W.FloatSlider(value=1, min=0, max=1, step=0.1, description="Kept at the end of a sentence"),
            "chunk": W.Dropdown(options=CHUNKS, value=1, description="Words to a chunk (one anchor each)"),
        }

    def adjust(self, name):
        """Keeps the needle inside the text."""
        slider, words = self.controls_by_name["place"], len(self.settings["text"].split())
        if name == "text" and 1 <= words <= LONGEST:
            slider.value = min(slider.value, words)
            slider.max = words

    compute, draw, read_out = pure(by_name(compute), drawing.draw, read_out)
