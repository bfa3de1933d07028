"""Notebook 05b's live training, recorded: what `USE_RECORDED = True` shows in its place.

The same small Titans model, texts and steps as the notebook's cells: one digit, hidden in RULER's noise.
"""

from pathlib import Path

from nl_course.model import LanguageModel, ModelConfig
from nl_course.record.parts import begin
from nl_course.record.provenance import Recording, read_config
from nl_course.seeding import seeded
from nl_course.tasks.needle import NeedleTask
from nl_course.training import TrainingConfig, train
from nl_course.training.checkpoint import save_model


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Trains, and writes `runs/05-live-training.json` and `checkpoints/05-live-training.safetensors`."""
    config = read_config("live-needle")
    shorter = dict(steps=3, warmup=1) if quick else {}
    training = TrainingConfig(**{**config["training"], **shorter})
    recording = Recording("live-needle", config, device)
    with seeded(training.seed):
        model = LanguageModel(ModelConfig(**config["model"]))
        begin(model)
    result = train(model.to(device), NeedleTask(**config["task"]), training, progress=False)
    metrics = [{"step": line["step"], "loss": round(line["loss"], 4)} for line in result.metrics]
    checkpoint = assets / "checkpoints" / "05-live-training.safetensors"
    save_model(model, checkpoint, info=recording.about())
    return [recording.write(assets / "runs" / "05-live-training.json", {"metrics": metrics}), checkpoint]
