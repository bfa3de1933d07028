"""The recipe of notebook 05b's recorded run: whole in a few steps, and made as the notebook's own cells make it."""

import json

import nbformat

from nl_course.files import course_root
from nl_course.record import record
from nl_course.record.provenance import read_config
from nl_course.tasks.needle import NeedleTask
from nl_course.training import TrainingConfig
from nl_course.training.checkpoint import load_model


def test_a_quick_run_writes_what_the_notebook_shows(tmp_path):
    run, checkpoint = record("live-needle", tmp_path, quick=True)
    recording, config = json.loads(run.read_text()), read_config("live-needle")
    assert [m["step"] for m in recording["metrics"]] == [1, 2, 3]
    assert load_model(checkpoint).config.memory == config["model"]["memory"]


def test_the_notebook_trains_what_is_recorded():
    notebook = nbformat.read(course_root() / "notebooks" / "05b_inside_titans.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    config = read_config("live-needle")
    kinds = {"ModelConfig": dict, "TrainingConfig": TrainingConfig, "NeedleTask": NeedleTask}
    names = {name: lambda *kind, **given: {**({"kind": kind[0]} if kind else {}), **given} for name in kinds}
    for (name, build), asked in zip(kinds.items(), (config["model"], config["training"], config["task"])):
        start = code.index(f"{name}(", code.index("# as recorded"))
        given = eval(code[start : code.index("\n)", start) + 2], {**names, "dict": dict})
        assert build(**given) == build(**asked)
