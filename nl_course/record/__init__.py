"""Makes the recordings that the course ships: `nl-course record NAME`.

A recipe is a module here with `run(assets, device, quick)`: it trains or measures from
`nl_course/record/configs/NAME.json` and writes under the folder `assets`. `quick` shrinks it to seconds, to test the
recipe itself.

Recipes that compare models keep to one protocol (protocol.py). Those that can be cut go on where they were; started
twice at once they use two cores, and take half as long. Their parts may also stand in the checkout (unfinished.py).
"""

from importlib import import_module
from pathlib import Path

from nl_course.errors import check_choice
from nl_course.files import course_root

RECIPES = {
    "library": "the hashes of the default library's books, when a pinned version changes (half a minute)",
    "attention": "the checkpoint that notebook 01 looks into (about half an hour on one core)",
    "board": "notebook 10's runs, each estimated and then trained (about four minutes on one core)",
    "books": "notebook 09's facts of the first book, asked as more books are read (about twenty minutes on one core)",
    "chunks": "notebook 05b's recall by size of chunk, written by SGD and by Muon (20 minutes on one core; can be cut)",
    "continual": "notebook 06's clocks and a plain MLP on changing corpora (about eight minutes on one core)",
    "decode": "notebook 09b's seconds and bytes for one more token after 1k to 128k (minutes on one core)",
    "corpora": "notebook 09b's three corpora in a row, clocks and a plain MLP (about eight minutes on one core)",
    "first-training": "notebook 01's training, for machines too weak to train live (half a minute)",
    "frontier": "notebook 09's recall against bytes of state, every memory (under three hours on one core; can be cut)",
    "hope": "notebook 07's HOPE, Titans and transformer on parity, recall and text (an hour on one core; can be cut)",
    "inner-loop": "notebook 04's two language models, attention and TTT-Linear (about half an hour on one core)",
    "live-needle": "notebook 05b's training, for machines too weak to train live (seconds)",
    "long-text": "notebook 09b's loss by place in a long context, every memory (100 minutes on one core; can be cut)",
    "mechanisms": "a case for each mechanism, with it and without (half an hour on one core; can be cut)",
    "needle": "notebook 05's needles: windowed attention and each memory (four hours on one core; can be cut)",
    "optimizers": "notebook 09b's optimizers on one small model, each at its best rate (ten minutes on one core)",
    "reading": "notebook 08's TTT-E2E, and the same network without its loop, on text (half an hour on one core)",
    "scaling": "the small models that notebook 02 fits its own scaling law to (about half an hour on one core)",
    "sceptic": "notebook 08's trained memories with their inner loop changed (an hour on one core; can be cut)",
    "stage": "the stage's small models at five steps of their training (a quarter of an hour on one core; can be cut)",
    "state-tracking": "notebook 09b's word problems of groups, three seeds (20 minutes on one core; can be cut)",
    "wirings": "notebook 05's MAC, MAG and MAL with one thing changed at a time (an hour on one core; can be cut)",
}


def record(name: str, assets: str | Path | None = None, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Runs a recipe and returns the files that it wrote. Raises CourseError for a name that is none."""
    from nl_course.record.unfinished import take_up  # here, since it needs torch and the list of recipes does not

    recipe = import_module(f"nl_course.record.{check_choice('recording', name, RECIPES).replace('-', '_')}")
    if not quick:
        take_up(name)
    return recipe.run(Path(assets) if assets else course_root() / "assets", device, quick)
