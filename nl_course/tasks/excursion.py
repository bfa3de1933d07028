"""An excursion: an old task, then new ones with the same keys and other values, then the old one is asked again.

    quiet   k v k v ...  (old)   k v ... N k  (new)   k v ... N k  (newer)   O k O k

Each new task gives every key a new value. A memory that writes everything at one pace overwrites the old task: its keys
are the same. N asks for the newest value of the key after it, O for the value of the old task. The text is laid out so
that the old task ends at a boundary of a slow clock and the row ends before the next one: a level with that clock has
written the old task and not yet the new ones (the continuum memory system of arXiv 2512.24695, section 7).

Token 0 is blank. The questions alone are scored. Axes: rows, length.
"""

import torch
from torch import Tensor

from nl_course.errors import check_choice, check_int
from nl_course.tasks.targets import IGNORED

BLANK, OLD, NEW = 0, 1, 2
MARKS = 3  # tokens before the first key
SCORED = ("both", "old", "new")


def vocabulary(keys: int = 8, values: int = 16) -> int:
    """Tokens of such texts: the marks, then keys, then values."""
    return MARKS + check_int("keys", keys, 1) + check_int("values", values, 2)


def excursion(
    rows: int,
    keys: int = 8,
    values: int = 16,
    quiet: int = 0,
    old: int = 2,
    tasks: int = 1,
    new: int = 2,
    asked_new: int = 4,
    asked_old: int = 8,
    scored: str = "both",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """(tokens, targets), int64, each (rows, length):

        quiet + 2 keys old  +  tasks (2 keys new + 2 asked_new)  +  2 asked_old  =  length

    `quiet` blanks; the old task, every key with its value `old` times; `tasks` new ones, every key `new` times, each
    followed by `asked_new` questions about it; then `asked_old` questions about the old task. No key is asked twice in
    a row of questions before all were asked once. `scored` "old" or "new" leaves only those questions a target.

    Raises CourseError for a count that makes no sense.
    """
    check_int("rows", rows, 1)
    vocabulary(keys, values)
    for name, count in (("quiet", quiet), ("asked_new", asked_new), ("asked_old", asked_old)):
        check_int(name, count, 0)
    for name, count in (("old", old), ("tasks", tasks), ("new", new)):
        check_int(name, count, 1)
    check_choice("scored", scored, SCORED)
    rng = torch.Generator().manual_seed(seed)
    token_parts, target_parts = [], []

    def some_keys(count: int) -> Tensor:
        """`count` keys per row: all of them in a random order, again and again, (rows, count)."""
        rounds = [torch.rand(rows, keys, generator=rng).argsort(1) for _ in range(-(-count // keys))]
        return torch.cat([torch.empty(rows, 0, dtype=torch.int64), *rounds], dim=1)[:, :count]

    def add(first: Tensor, second: Tensor, targets: Tensor) -> None:
        """Pairs of tokens, (rows, count) each, and the targets of the second ones."""
        token_parts.append(torch.stack([first, second], dim=-1).flatten(1))  # (rows, 2 count)
        target_parts.append(torch.stack([torch.full_like(targets, IGNORED), targets], dim=-1).flatten(1))

    def tell(value_of: Tensor, times: int) -> None:
        """Adds pairs of a key and its value to every row. No target counts there."""
        key = some_keys(keys * times)
        value = MARKS + keys + value_of.gather(1, key)
        add(MARKS + key, value, torch.full_like(key, IGNORED))

    def ask(value_of: Tensor, mark: int, count: int, counts: bool) -> None:
        """Adds questions to every row: a mark, then the key, whose target is the key's value."""
        key = some_keys(count)
        targets = MARKS + keys + value_of.gather(1, key)
        add(torch.full_like(key, mark), MARKS + key, targets if counts else torch.full_like(key, IGNORED))

    def drawn() -> Tensor:
        """A task: a value for each key, (rows, keys)."""
        return torch.randint(values, (rows, keys), generator=rng)

    silence = torch.full((rows, quiet), BLANK)
    token_parts.append(silence)
    target_parts.append(torch.full_like(silence, IGNORED))
    old_task = drawn()
    tell(old_task, old)
    for _ in range(tasks):
        new_task = drawn()
        tell(new_task, new)
        ask(new_task, NEW, asked_new, scored != "old")
    ask(old_task, OLD, asked_old, scored != "new")
    return torch.cat(token_parts, dim=1), torch.cat(target_parts, dim=1)
