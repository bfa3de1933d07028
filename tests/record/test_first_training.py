"""The recipe of notebook 01's recorded run: whole in a few steps, and made as the notebook's own cells make it."""

import json

import nbformat
import pytest

from nl_course.files import course_root
from nl_course.record import record
from nl_course.record.provenance import read_config
from nl_course.training import TrainingConfig
from nl_course.training.checkpoint import load_model


@pytest.mark.slow
def test_a_quick_run_writes_what_the_notebook_shows(tmp_path):
    run, checkpoint = record("first-training", tmp_path, quick=True)
    recording, config = json.loads(run.read_text()), read_config("first-training")
    assert [m["step"] for m in recording["metrics"]] == [1, 2, 3] and "held_out_loss" in recording["metrics"][1]
    assert recording["before"].startswith(config["prompt"]) and recording["after"] != recording["before"]
    assert load_model(checkpoint).config.width == config["model"]["width"]


def test_the_notebook_trains_what_is_recorded():
    notebook = nbformat.read(course_root() / "notebooks" / "01_attention.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    config = read_config("first-training")
    names = {"ModelConfig": lambda **given: given, "TrainingConfig": lambda **given: given}
    for name, asked in (("ModelConfig", config["model"]), ("TrainingConfig", config["training"])):
        start = code.index(f"{name}(")
        given = eval(code[start : code.index(")", start) + 1], names)
        if name == "TrainingConfig":
            given, asked = (TrainingConfig(**c).to_dict() for c in (given, asked))
        assert given == asked
