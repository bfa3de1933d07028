"""Notebook 01's live training, recorded: what `USE_RECORDED = True` shows in its place.

The same model, text, steps and samples as the notebook's cells; the trained weights are kept too, since later cells
look into them.
"""

from pathlib import Path

import torch

from nl_course.model import LanguageModel, ModelConfig
from nl_course.record.provenance import Recording, read_config
from nl_course.record.texts import recording_library
from nl_course.seeding import seeded
from nl_course.tasks.text import decode, encode
from nl_course.training import TrainingConfig, train
from nl_course.training.checkpoint import save_model


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Trains, and writes `runs/01-live-training.json` and `checkpoints/01-live-training.safetensors`."""
    config = read_config("first-training")
    shorter = dict(steps=3, warmup=1, evaluate_every=2) if quick else {}
    training = TrainingConfig(**{**config["training"], **shorter})
    recording = Recording("first-training", config, device)
    text = recording_library(config, config["corpus"])
    with seeded(training.seed):
        model = LanguageModel(ModelConfig(**config["model"])).to(device)

    def sample() -> str:
        """What the model writes after the prompt, as text."""
        prompt = encode(config["prompt"])[None].to(device)
        tokens = torch.cat(list(model.generate(prompt, **config["sample"])))
        return config["prompt"] + decode(tokens.cpu())

    before = sample()
    result = train(model, text.stream("train"), training, held_out=text.stream("held_out"))
    metrics = []
    for line in result.metrics:
        shown = [key for key in ("step", "loss", "held_out_loss") if key in line]
        metrics.append({key: round(line[key], 4) for key in shown})
    checkpoint = assets / "checkpoints" / "01-live-training.safetensors"
    save_model(model, checkpoint, info=recording.about())
    results = {"before": before, "after": sample(), "metrics": metrics, "differences": text.differences}
    return [recording.write(assets / "runs" / "01-live-training.json", results), checkpoint]
