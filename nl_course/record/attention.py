"""The checkpoint that notebook 01 looks into: the `micro` transformer, trained longer than a learner would wait.

Half of each batch is real text, prose and code; the other half are rows that repeat: random letters, random words,
and passages of the same text. The repeating rows are there so that a model this small comes to copy from its context
within minutes, in random strings and in sentences; the notebook says so.
"""

from pathlib import Path

import torch
from torch import Tensor

from nl_course.model import LanguageModel
from nl_course.presets import preset
from nl_course.record.provenance import Recording, read_config
from nl_course.record.texts import recording_libraries
from nl_course.seeding import seeded
from nl_course.tasks.repeats import repeated_passages, repeated_strings
from nl_course.tasks.text import batch
from nl_course.training import Data, TrainingConfig, evaluate, token_losses, train
from nl_course.training.checkpoint import save_model


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Trains, and writes `checkpoints/attention-micro.safetensors` and `runs/attention-micro.json`."""
    config = read_config("attention")
    shorter = dict(steps=3, warmup=1, evaluate_every=0) if quick else {}
    training = TrainingConfig.from_dict({**config["training"], **shorter})
    recording = Recording("attention", config, device)
    texts = recording_libraries(config, config["corpora"])
    streams = [text.stream("train") for text in texts]
    held_out = {corpus: text.stream("held_out") for corpus, text in zip(config["corpora"], texts, strict=True)}

    with seeded(training.seed):
        model = LanguageModel(preset(config["preset"])).to(device)
    mixed = mixture(streams, config["repeats"], training)

    def look(model: LanguageModel) -> dict[str, float]:
        """Held-out losses of each corpus, and how well the model copies."""
        losses = {}
        for corpus, stream in held_out.items():
            losses[f"held_out_{corpus}"] = evaluate(model, stream, training.length).loss
        return {**losses, **copying(model), **copying_text(model, held_out["prose"])}

    result = train(model, mixed, training, held_out=look)
    summary = look(model)
    checkpoint = assets / "checkpoints" / "attention-micro.safetensors"
    save_model(model, checkpoint, info={**recording.about(), **summary})
    shown = ("step", "loss", *summary)
    curve = []
    for line in result.metrics:
        if line["step"] % 20 == 0 or summary.keys() <= line.keys():  # every 20th step, and every look at held-out text
            curve.append({key: round(value, 4) for key, value in line.items() if key in shown})
    return [checkpoint, recording.write(assets / "runs" / "attention-micro.json", {**summary, "curve": curve})]


def mixture(streams: list[Tensor], repeats: dict[str, dict], training: TrainingConfig) -> Data:
    """step -> (inputs, targets): rows of each stream in turn, then the rows that repeat: `letters`, `words` and
    `passages` of the streams in turn, each a dict of how many `rows` and the `period` (least, most)."""
    text_rows = training.batch_size - sum(kind["rows"] for kind in repeats.values())
    shares = [len(range(i, text_rows, len(streams))) for i in range(len(streams))]

    def at(step: int) -> tuple[Tensor, Tensor]:
        """The rows of one step, (batch, T) inputs and targets. They depend on the step and the seed alone."""
        seed, length = training.seed + step, training.length + 1
        rows = []
        for i, (stream, share) in enumerate(zip(streams, shares, strict=True)):
            inputs, targets = batch(stream, step, share, training.length, training.seed + i)
            rows.append(torch.cat([inputs, targets[:, -1:]], dim=1))
        for blanks, kind in ((0.0, repeats["letters"]), (0.25, repeats["words"])):
            rows.append(repeated_strings(kind["rows"], length, tuple(kind["period"]), seed, blanks))
        passages = repeats["passages"]
        stream = streams[step % len(streams)]
        rows.append(repeated_passages(stream, passages["rows"], length, tuple(passages["period"]), seed))
        tokens = torch.cat(rows)
        return tokens[:, :-1], tokens[:, 1:]

    return at


@torch.no_grad()
def copying(model: LanguageModel, period: int = 24, rows: int = 32) -> dict[str, float]:
    """Loss on random letters shown for the first time and when they come again (nats per byte)."""
    text = repeated_strings(rows, 2 * period, period, seed=1)
    losses = token_losses(model, text[:, :-1], text[:, 1:])
    # The first repeated letter cannot be known to be one; from the next on the past says what comes.
    first, again = losses[:, : period - 1].mean(), losses[:, period + 1 :].mean()
    return {"letters_first": first.item(), "letters_again": again.item()}


@torch.no_grad()
def copying_text(model: LanguageModel, held_out: Tensor, period: int = 48, rows: int = 32) -> dict[str, float]:
    """The same for passages of held-out text."""
    text = repeated_passages(held_out, rows, 2 * period, (period, period), seed=1)
    losses = token_losses(model, text[:, :-1], text[:, 1:])
    return {
        "passages_first": losses[:, : period - 1].mean().item(),
        "passages_again": losses[:, period + 1 :].mean().item(),
    }
