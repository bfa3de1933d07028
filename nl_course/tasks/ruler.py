"""RULER's needles as published: its sentences letter for letter, and where they may stand.

Hsieh et al. 2024, arXiv 2404.06654. The strings are those of NVIDIA/RULER: `scripts/data/synthetic/niah.py` (`needle`,
the hay of `noise`, `DEPTHS`, `generate_input_output`) and `constants.py` (`TASKS["niah"]`), with the singular that
niah.py makes of them for one question with one answer. `needle.NeedleTask(style="ruler")` draws keys, answers and hay
and puts them in here.

    One of the special magic numbers for plumb-tribe is: 5817369.
"""

import random
import re
import uuid

NEEDLE = "One of the special magic {what}s for {key} is: {answer}."
BEFORE = (
    "A special magic {what} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {what} afterwards.\n"
)
QUESTION = (
    "\nWhat is the special magic {what} for {key} mentioned in the provided text? "
    "The special magic {what} for {key} mentioned in the provided text is "
)
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DIGITS = 7
UUID_SIZE = 36
NEW_TOKENS = 128  # what RULER lets a model generate after the question
DEPTHS = tuple(round(100 * i / 39) / 100 for i in range(40))  # where a needle may stand in prose

# RULER's name -> options of NeedleTask beside style="ruler".
FORMS = {
    "S-NIAH-1": {"kind": "passkey"},
    "S-NIAH-2": {"kind": "number"},
    "S-NIAH-3": {"kind": "uuid"},
    "MK-NIAH-1": {"kind": "number", "needles": 4},
}


def number(rng: random.Random, digits: int = DIGITS) -> str:
    """A number of that many digits, the first of them not 0."""
    return str(rng.randint(10 ** (digits - 1), 10**digits - 1))


def random_uuid(rng: random.Random) -> str:
    """A random uuid of version 4, 36 bytes."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def prose(text: bytes) -> bytes:
    """Text as hay: every run of white space is one space."""
    return re.sub(rb"\s+", b" ", text).strip()


def with_needles(hay: bytes, needles: list[bytes], depths: list[float], joined_by: bytes) -> tuple[bytes, list[int]]:
    """The hay with each needle between two of its sentences, and at which byte each needle begins.

    `joined_by` b"\\n" takes each line for a sentence (RULER's noise), b" " whatever ends in a point, question mark or
    exclamation mark (nltk decides that there). Needle i stands before sentence int(depth * sentences), at depth 1 at
    the end. Each makes the text longer by its own length and one separator: where it stands first or last in prose, or
    beside another, RULER's code writes a second space.
    """
    sentences = hay.split(b"\n") if joined_by == b"\n" else re.split(rb"(?<=[.!?]) ", hay)
    before = [int(len(sentences) * depth) for depth in depths]
    pieces: list[bytes] = []
    begins, used = [0] * len(needles), 0
    for i in sorted(range(len(needles)), key=lambda i: (before[i], i)):
        pieces += sentences[used : before[i]]
        used = before[i]
        begins[i] = sum(len(piece) + 1 for piece in pieces)
        pieces.append(needles[i])
    return joined_by.join(pieces + sentences[used:]), begins


def contains(answer: str, generated: str) -> bool:
    """RULER's score of one answer: it stands somewhere in what was generated, in capitals or not
    (`scripts/eval/synthetic/constants.py`, `string_match_all`)."""
    return answer.lower() in generated.lower()
