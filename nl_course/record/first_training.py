"""Notebook 01's live training, recorded: what `USE_RECORDED = True` shows in its place.

The same model, text, steps and samples as the notebook's cells; the trained weights are kept too, since later cells
look into them.
"""

from pathlib import Path

import torch

from nl_course.model import LanguageModel, ModelConfig
from nl_course.record.provenance import Recording, read_config
from nl_course.tasks.text import decode, encode, library
from nl_course.training import TrainingConfig, train
from nl_course.training.checkpoint import save_model


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Trains, and writes `runs/01-live-training.json` and `checkpoints/01-live-training.safetensors`."""
    config = read_config("first-training")
    training = TrainingConfig(**{**config["training"], **(dict(steps=3, warmup=1, evaluate_every=2) if quick else {})})
    recording, books = Recording("first-training", config, device), library(config["corpus"])
    torch.manual_seed(training.seed)
    model = LanguageModel(ModelConfig(**config["model"])).to(device)

    def sample() -> str:
        prompt = encode(config["prompt"])[None].to(device)
        written = model.generate(prompt, **config["sample"])
        return config["prompt"] + decode(torch.cat(list(written)).cpu())

    before = sample()
    result = train(model, books.stream("train"), training, held_out=books.stream("held_out"))
    kept = ("step", "loss", "held_out_loss")
    metrics = [{k: round(m[k], 4) for k in kept if k in m} for m in result.metrics]
    checkpoint = assets / "checkpoints" / "01-live-training.safetensors"
    save_model(model, checkpoint, info=recording.about())
    results = {"before": before, "after": sample(), "metrics": metrics, "differences": books.differences}
    return [recording.write(assets / "runs" / "01-live-training.json", results), checkpoint]
