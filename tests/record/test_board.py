"""The recipe of notebook 10's recorded runs: whole in a few steps, and planned as the notebook's own cells plan."""

import json

import nbformat

from nl_course.files import course_root
from nl_course.record import board
from nl_course.record.provenance import Recording, read_config
from nl_course.training.runner import Plan


def test_a_quick_run_is_what_the_board_reads(tmp_path):
    config = read_config("board")
    first, *_ = board.plans(config, quick=True)
    run = board.one_run(first, str(tmp_path / "run"), "cpu", every=2)
    path = Recording("board", config).write(tmp_path / "board.json", {"runs": [run]})
    (kept,) = json.loads(path.read_text())["runs"]
    assert [line["step"] for line in kept["metrics"]] == [1, 2, 3, 4, 5]  # held-out text is looked at every step here
    assert kept["about"]["asked"]["kind"] == first.memory and kept["before"]["tokens"] == 5 * 8 * 128
    assert kept["before"]["seconds"][0] < kept["before"]["seconds"][1] and kept["held_before"] > 0


def test_every_plan_that_is_recorded_can_be_built():
    plans = board.plans(read_config("board"))
    assert len({plan.name for plan in plans}) == len(plans) > 5
    assert all(plan.build().parameter_count() > 50_000 for plan in plans)


def test_the_notebook_trains_what_is_recorded_first():
    notebook = nbformat.read(course_root() / "notebooks" / "10_train_your_own.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    start = code.index("Plan(", code.index("# as recorded"))
    plan = eval(code[start : code.index(")", start) + 1], {"Plan": Plan})
    assert plan == board.plans(read_config("board"))[0]
