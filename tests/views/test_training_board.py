"""What is chosen is what trains, what the run says is what is shown, and no test waits for a clock."""

import asyncio

import pytest

from nl_course.errors import CourseError
from nl_course.views.training_board import TrainingBoard, off_by, parameters, recorded, smooth

pytestmark = pytest.mark.slow
QUICK = dict(steps=20, memory="linear")


@pytest.fixture
def board(tmp_path):
    return TrainingBoard(folder=tmp_path, strict=True, **QUICK)


def lines(board, axis="y"):
    return [t for t in board.figure.data if t.yaxis in (axis, None) and t.mode == "lines"]


def test_it_opens_on_recorded_runs_of_the_same_task(board):
    assert board.error == "" and "20 steps" in board.readout
    text = [run for run, _ in recorded() if run.task == "text"]
    assert len(text) >= 4 and [t.name for t in lines(board)][:-1] == [run.name for run in text]
    board.set(task="recall")
    assert [t.name for t in lines(board)][:-1] == [run.name for run, _ in recorded() if run.task == "recall"]
    board.set(earlier=False)
    assert len(lines(board)) == 1


def test_steps_taken_are_steps_shown(board):
    board.runner.step(2)
    shown = lines(board)[-1]
    assert list(shown.x) == [1, 2] and "Paused at step 2" in board.readout
    assert list(shown.y) == pytest.approx(smooth([1, 2], [m["loss"] for m in board.runner.metrics]))
    assert list(lines(board, "y3")[-1].y) == [m["grad_norm"] for m in board.runner.metrics]
    assert list(lines(board, "y4")[-1].y) == pytest.approx([m["memory_bytes"] / 1e9 for m in board.runner.metrics])
    assert board.start_button.description == "Go on" and board.pause_button.disabled


def test_the_buttons_start_pause_and_go_on(board):
    """The pause is pressed by a listener, within step 3; the thread is waited for, not slept for."""
    presses = []

    def press():
        if board.runner.done == 3 and not presses:
            presses.append(board.start_button.disabled)
            board.pause_button.click()

    board.runner.listeners.append(press)
    board.start_button.click()
    assert board.runner.wait() == "paused" and board.runner.done == 3
    board.refresh()
    assert presses == [True] and "Paused at step 3" in board.readout
    assert not board.controls_by_name["memory"].disabled
    board.start_button.click()
    assert board.runner.wait() == "done"
    board.refresh()
    assert "Done at step 20" in board.readout and board.start_button.disabled


def test_an_estimate_stands_beside_what_came(board):
    board.predict(1.2)
    board.estimate_button.click()
    said = board.arrays["estimate"]
    assert "Estimated" in board.readout and board.arrays["off"] is None
    assert [a.text for a in board.figure.layout.annotations] == ["estimated"]
    board.runner.step(20)
    assert board.arrays["off"] == pytest.approx(off_by(sum(said.seconds) / 2, board.runner.metrics[-1]["seconds"]))
    assert "missed the time by a factor of" in board.readout and "it came out" in board.verdict
    assert len(board.figure.layout.annotations) == 2  # memory too, once it is known what was held before


def test_another_choice_is_another_run_and_both_are_kept(board):
    board.runner.step(1)
    board.set(memory="gated-delta")
    assert board.runner.status == "ready" and list(lines(board)[-1].x) == []
    assert any(t.name == "linear-small-text-steps-20" for t in lines(board))
    board.set(memory="linear")
    assert board.runner.done == 1
    again = TrainingBoard(folder=board.folder, strict=True, **QUICK)
    assert (again.runner.status, again.runner.done) == ("paused", 1)


def test_what_stops_a_run_is_said_in_the_view(board, monkeypatch):
    monkeypatch.setattr(
        "nl_course.training.runner.Plan.data", lambda plan: (_ for _ in ()).throw(CourseError("no books"))
    )
    board.start_button.click()
    assert board.runner.wait() == "failed"
    board.refresh()
    assert board.error == "The run stopped: no books" and not board.start_button.disabled


def test_in_a_kernel_drawing_is_left_to_the_kernels_own_thread(tmp_path):
    """In a running loop nothing is drawn by the training thread: it only asks."""

    async def session():
        board = TrainingBoard(folder=tmp_path, strict=True, **QUICK)
        board.runner.start()
        board.runner.wait()
        before = board.readout
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return before, board.readout

    before, after = asyncio.run(session())
    assert "Done" not in before and "Done at step 20" in after


def test_factors_and_counts():
    assert off_by(10, 20) == off_by(20, 10) == 2 and off_by(None, 1) is None
    assert parameters("linear", "small") < parameters("linear", "micro") < parameters("linear", "tiny")
    assert smooth([1, 2, 3], [1.0, 2.0, 3.0], 2) == [1, 1.5, 2.5]
    assert smooth([1, 5, 10], [1.0, 2.0, 3.0], 6) == [1, 1.5, 2.5]
