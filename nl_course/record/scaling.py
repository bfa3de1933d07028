"""The course's own scaling law: small models of many sizes, each trained on several amounts of text.

Every pair of model and amount of text is a run of its own with its own learning-rate schedule, since a run cut
short before its schedule ends is not a run of fewer tokens (Hoffmann et al. 2022, section 3.1, on Kaplan's
cosine). Peak rates fall with width as A / width^power; weights start as N(0, 1/inputs) rather than N(0, 0.02),
which at these widths would be almost nothing, and spend most of a short run on growing.
"""

from pathlib import Path

import torch
from torch import nn

from nl_course.model import LanguageModel, ModelConfig
from nl_course.record.provenance import Recording, read_config
from nl_course.record.texts import recording_library
from nl_course.roles import param_roles
from nl_course.seeding import seeded
from nl_course.training import TrainingConfig, evaluate, train


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Trains every model of `configs/scaling.json` on every amount of text; writes `runs/scaling.json`."""
    config = read_config("scaling")
    if quick:
        config = {**config, **config["quick"]}
    recording = Recording("scaling", config, device)
    text = recording_library(config, config["corpus"])
    streams = {split: text.stream(split) for split in ("train", "held_out")}
    jobs = [(shape, tokens) for tokens in config["tokens"] for shape in config["models"]]
    runs = []
    for number, (shape, tokens) in enumerate(jobs, 1):
        runs.append(one_run(config, shape, tokens, streams, device))
        sizes = f"{runs[-1]['parameters']:>7,} parameters, {tokens / 1e6:g}M bytes"
        print(f"{number}/{len(jobs)}  {sizes}: {runs[-1]['held_out_loss']:.4f} nats per byte", flush=True)
    results = {
        "units": "losses in nats per byte of held-out books; parameters count the embedding, which is tied",
        "differences": text.differences,
        "runs": runs,
    }
    return [recording.write(assets / "runs" / "scaling.json", results)]


def one_run(config: dict, shape: dict, tokens: int, streams: dict, device: str) -> dict:
    """One model, one amount of text: trained, then measured on held-out books."""
    with seeded(config["seed"]):
        model = LanguageModel(ModelConfig(**shape))
        start_weights(model)
    model.to(device)
    per_step = config["batch_size"] * config["length"]
    recipe = TrainingConfig(
        steps=max(1, round(tokens / per_step)),
        batch_size=config["batch_size"],
        length=config["length"],
        learning_rate=config["rate_at_width_32"] * (32 / shape["width"]) ** config["rate_power"],
        warmup=config["warmup"],
        weight_decay=config["weight_decay"],
        precision="fp32",
        seed=config["seed"],
        save_every=0,
        evaluate_every=0,
    )
    trained = train(model, streams["train"], recipe, progress=False)
    held_out = evaluate(model, streams["held_out"], config["length"], batches=10**6, precision="fp32")
    count = sum(p.numel() for p in model.parameters())
    last = trained.losses[-max(1, recipe.steps // 20) :]
    return {
        **shape,
        "parameters": count,
        "parameters_without_embedding": count - model.embedding.weight.numel(),
        "tokens": recipe.steps * per_step,
        "steps": recipe.steps,
        "learning_rate": recipe.learning_rate,
        "held_out_loss": held_out.loss,
        "held_out_tokens": held_out.tokens,
        "training_loss": sum(last) / len(last),
        "loss_by_position": [round(float(x), 5) for x in held_out.by_position],
        "seconds": trained.metrics[-1]["seconds"],
    }


@torch.no_grad()
def start_weights(model: LanguageModel) -> None:
    """N(0, 1/inputs) for every matrix; those that write into the residual stream smaller by sqrt(2 layers)."""
    for name, role in param_roles(model).items():
        if role.decays:  # matrices and the embedding
            weight = model.get_parameter(name)
            shrink = (2 * model.config.layers) ** 0.5 if role.into_stream else 1.0
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5 / shrink)
