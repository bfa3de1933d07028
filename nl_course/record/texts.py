"""The text that a recording learns from, which shares no long line with the text that it is measured on.

A config with `"split": "no shared lines"` learns from the library without the lines of 40 bytes or more that are held
out (`Library.without_shared_lines`). Its recording says so in `about`. A config without a split, as recordings had
until November 2026, learns from the library as it is: "shared lines". The held-out text is the same with both, so
held-out losses of both can be compared.

Recordings that stand beside a notebook's live training (`first-training`, `board`, `live-needle`) have the split of
those cells.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from nl_course.errors import check_choice
from nl_course.tasks.continual import Domain, domain
from nl_course.tasks.text import Library, library

SHARED, NOT_SHARED = "shared lines", "no shared lines"


def split_of(config: Mapping[str, Any]) -> str:
    """What a recording's config (or its `about`) says of lines that both sides share; SHARED if it says nothing."""
    return check_choice("split", config.get("split", SHARED), (SHARED, NOT_SHARED))


def split_said(config: Mapping[str, Any]) -> str | None:
    """The split that a config names, itself or in one of its `tasks`; None if it names none."""
    for part in (config, *config.get("tasks", {}).values()):
        if "split" in part:
            return split_of(part)
    return None


def recording_library(config: Mapping[str, Any], corpus: str = "prose") -> Library:
    """The default library as a recording with that config learns from it."""
    return recording_libraries(config, [corpus])[0]


def recording_libraries(config: Mapping[str, Any], corpora: Sequence[str]) -> list[Library]:
    """The same for several corpora that one model learns from: what is held out in one stands in none of them."""
    return list(_libraries(split_of(config), tuple(corpora)))


@lru_cache(maxsize=4)
def _libraries(split: str, corpora: tuple[str, ...]) -> tuple[Library, ...]:
    texts = [library(corpus) for corpus in corpora]
    if split == NOT_SHARED:
        return tuple(text.without_shared_lines(others=texts) for text in texts)
    return tuple(texts)


def recording_domain(config: Mapping[str, Any], name: str, names: Sequence[str]) -> Domain:
    """One of the domains `names` that a recording uses; what is held out in one stands in the training text of none."""
    if split_of(config) == SHARED:
        return domain(name)
    return domain(name, tuple(sorted(set(names))))
