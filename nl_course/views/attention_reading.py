"""What the attention explorer computes from one reading of a text: plain numpy, no widgets.

Axes: l layers, h heads, t tokens, d width of a head.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

BLANKS = np.frombuffer(b" \t\n\r\0", dtype=np.uint8)
CONTEXT = 3  # bytes that must agree for a place to count as a repetition


@dataclass(frozen=True)
class AttentionReading:
    """One text as a model read it: tokens (t,), query and key (l, h, t, d) after their turn by position, the length of
    each value (l, h, t), and the softmax weights of the model itself (l, h, t, t)."""

    tokens: np.ndarray
    query: np.ndarray
    key: np.ndarray
    value_length: np.ndarray
    weights: np.ndarray
    scale: float

    def scores(self, layer: int, head: int) -> np.ndarray:
        """q . k / sqrt(d) of every query with every key, later ones too: (t, t)."""
        return self.query[layer, head] @ self.key[layer, head].T * self.scale

    @cached_property
    def earlier(self) -> np.ndarray:
        """For each token the last earlier place with the same CONTEXT bytes up to it, or -1: (t,)."""
        return previous_occurrence(self.tokens, CONTEXT)


def previous_occurrence(tokens: np.ndarray, context: int) -> np.ndarray:
    """For each place the last earlier one where the same `context` tokens end, or -1."""
    seen: dict[bytes, int] = {}
    found = np.full(len(tokens), -1)
    for t in range(context - 1, len(tokens)):
        ending = tokens[t - context + 1 : t + 1].tobytes()
        found[t] = seen.get(ending, -1)
        seen[ending] = t
    return found


def induction_scores(reading: AttentionReading) -> np.ndarray:
    """Mean weight of each head on the token after the previous occurrence (l, h); NaN for a text without repeats.

    Olsson et al. 2022 (arXiv 2209.11895): a head that looks there can copy what followed last time.
    """
    (rows,) = np.nonzero(reading.earlier >= 0)
    if not len(rows):
        return np.full(reading.weights.shape[:2], np.nan)
    return reading.weights[:, :, rows, reading.earlier[rows] + 1].mean(axis=-1)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis; minus infinity gets weight 0."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def entropy_bits(weights: np.ndarray) -> np.ndarray:
    """Entropy of each row in bits: 0 when one entry has it all, log2 n when n share alike."""
    return -(weights * np.log2(np.where(weights > 0, weights, 1))).sum(axis=-1)


def words(tokens: np.ndarray) -> np.ndarray:
    """The word that each byte belongs to, from 0: a word is its letters and the blanks that follow it. (t,)"""
    blank = np.isin(tokens, BLANKS)
    starts = ~blank & np.concatenate([[False], blank[:-1]])
    return np.cumsum(starts)


def pool(matrix: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Bytes to groups, (t, t) -> (g, g): rows are averaged over a reader's bytes, columns summed over a key's."""
    members = np.arange(groups.max() + 1)[:, None] == groups  # (g, t)
    return (members / members.sum(axis=1, keepdims=True)) @ matrix @ members.T


def labels(tokens: np.ndarray, groups: np.ndarray) -> list[str]:
    """A name for each group: its text, blanks visible, bytes that are no text by themselves in hexadecimal."""
    names = []
    for group in range(groups.max() + 1):
        data = bytes(tokens[groups == group].astype(np.uint8))
        text = data.decode("utf-8", errors="ignore")
        name = text.strip() if len(data) > 1 and text.strip() else text.replace(" ", "␣").replace("\n", "↵")
        names.append(name if name.isprintable() and name else data.hex())
    return names


def word_ticks(tokens: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Where the middle of each word stands, in bytes from 1, and the words: an axis of bytes that reads as the text.
    (A label for every byte would take a browser longer to draw than all the rest.)"""
    groups = words(tokens)
    seen = ~np.isin(tokens, BLANKS)
    of_each = (np.flatnonzero(seen & (groups == word)) for word in range(groups.max() + 1))
    middles = [(found[0] + found[-1]) / 2 + 1 if len(found) else np.nan for found in of_each]
    named = [(m, name) for m, name in zip(middles, labels(tokens, groups)) if not np.isnan(m)]
    return np.array([m for m, _ in named]), [name for _, name in named]


def with_holes(matrix: np.ndarray) -> np.ndarray:
    """A heat map's numbers as they are sent to a browser: four digits, and None, which stays blank, for NaN."""
    rounded = np.round(matrix.astype(np.float64), 4)
    return np.where(np.isnan(rounded), None, rounded)
