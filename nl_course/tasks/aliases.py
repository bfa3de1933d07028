"""Aliases: a text says which name stands for which key, stores values under the names, and asks by key.

    c1=k3 c2=k1 ...    c2:v5 c1:v8 ...    k1? k3? ...     answers v5 v8 ...

Each event is one token, such as "name 2 stands for key 1" or "name 2 has value 5", so that nothing needs a convolution.
Which name stands for which key is drawn anew for each row. The straight way to file a value under its key is to make
keys that depend on the text before, by projections that change while it is read. With fixed projections a value is
filed under its name, which the question does not say. (That is no proof that they cannot learn the task: given enough
steps they nearly do, see record/mechanisms.py.) A share of 1 / names is right by guessing among the values of the row.

Token 0 is blank. Axes: rows, length.
"""

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_int
from nl_course.tasks.targets import IGNORED


def vocabulary(names: int = 4, values: int = 8) -> int:
    """Tokens of such texts: a blank, names * names aliases, names * values facts, the questions, and the answers."""
    check_int("names", names, 2)
    check_int("values", values, 2)
    return 1 + names * names + names * values + names + values


def aliases(rows: int, names: int = 4, values: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(tokens, targets), int64, each (rows, 3 * names): the aliases, the facts and the questions, each part in a random
    order. Targets are IGNORED except at the questions. Values differ within a row.

    Raises CourseError if there are fewer values than names.
    """
    check_int("rows", rows, 1)
    vocabulary(names, values)
    if values < names:
        raise CourseError(f"{names} names need {names} values at least, not {values}.")
    rng = torch.Generator().manual_seed(seed)
    key_of = torch.rand(rows, names, generator=rng).argsort(1)  # by name, (rows, names)
    value_of = torch.rand(rows, values, generator=rng).argsort(1)[:, :names]

    # Where each kind of token begins in the vocabulary.
    first_fact = 1 + names * names
    first_question = first_fact + names * values
    first_answer = first_question + names

    def in_some_order() -> Tensor:
        """All names of each row, (rows, names)."""
        return torch.rand(rows, names, generator=rng).argsort(1)

    name = in_some_order()
    said = 1 + name * names + key_of.gather(1, name)
    name = in_some_order()
    stored = first_fact + name * values + value_of.gather(1, name)
    name = in_some_order()
    asked = first_question + key_of.gather(1, name)
    answers = first_answer + value_of.gather(1, name)

    tokens = torch.cat([said, stored, asked], dim=1)  # (rows, 3 names)
    targets = torch.full_like(tokens, IGNORED)
    targets[:, 2 * names :] = answers
    return tokens, targets
