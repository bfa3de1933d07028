"""A small HOPE learns parity beyond the lengths that it was trained with; linear attention, trained on the same
strings, does not. Seeded; the recording's own settings but half of its steps, one seed."""

import pytest

from nl_course.record.hope import Hope, settings


@pytest.mark.slow
def test_hope_learns_parity_beyond_its_training_lengths_and_linear_attention_does_not(tmp_path):
    config = settings()
    about = config["tasks"]["parity"]
    about.update(asked_lengths=[32], asked_rows=32, asked_steps=1, state_lengths=[32], rates=[0.01])
    about["training"]["steps"] = 350
    longest = about["lengths"][1]
    hope = Hope(config=config, folder=tmp_path)
    accuracy = {name: hope.part("parity", name, 1)["found"]["parity"] for name in ("hope", "linear")}
    (within, beyond), (_, linear) = accuracy["hope"], accuracy["linear"]
    assert within["high"] <= longest < beyond["high"] == linear["high"]
    assert within["by_place"] > 0.99 and beyond["by_place"] > 0.9
    assert linear["by_place"] < 0.65  # a coin gets a half
