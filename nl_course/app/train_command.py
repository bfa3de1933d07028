"""`nl-course train`: a model, a text, a run; on one device, or on several under torchrun; or what it would take."""

import argparse
import os
import sys
from dataclasses import fields
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any

from nl_course.app.options import device_named, number
from nl_course.errors import CourseError, check_choice

INTERRUPTED = 130  # what a shell calls a program that ctrl-C ended
LEARN_FROM = 20_000_000  # bytes of a corpus that a tokenizer is trained on
HELP = """\
example: nl-course train --preset tiny --text prose --steps 500 --out runs/first
         nl-course train --resume --out runs/first        goes on after ctrl-C, with what it was started with
         nl-course train --preset tiny --steps 500 --estimate        says what that would take, and trains nothing
         nl-course train --data "shelf/*.jsonl" --tokenizer shelf.json --preset 125m       a corpus, read in order
         torchrun --nproc-per-node 8 -m nl_course train --preset 125m --parallel fsdp --out runs/large

Every setting of the run is an option too; nl_course/training/loop.py says what each does."""
ABOUT = {"preset": "tiny", "memory": None, "text": None, "data": None, "column": None, "tokenizer": None}


def add_command(commands, about: str) -> None:
    from nl_course.training.loop import TrainingConfig

    parser = commands.add_parser("train", help=about, epilog=HELP)
    parser.add_argument("--preset", help="the model's size: micro, tiny, ttt-e2e-tiny, ... (default: tiny)")
    parser.add_argument("--memory", help="what its blocks remember with (default: the preset's)")
    parser.add_argument("--text", help="prose or code of the course's library, or a file or folder (default: prose)")
    parser.add_argument("--data", help="instead: a dataset's name on a hub, or .jsonl, .parquet, .csv, .txt files")
    parser.add_argument("--column", help="the column of --data that holds the text (default: text)")
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="subwords for --data; trained on it if there is no such file yet"
    )
    parser.add_argument("--vocab", type=number(int), help="subwords of a new tokenizer (default: 32000)")
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/PRESET)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run's folder")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    parser.add_argument("--parallel", default="auto", help="ddp or fsdp, under torchrun; auto is ddp there, none else")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--estimate", action="store_true", help="say what it takes, from a few real steps, and stop")
    parser.add_argument("--accelerator", help="for --estimate: this one by its data sheet, and no steps here")
    parser.add_argument("--price", type=number(float), help="for --estimate: of a device's hour, in your money")
    for setting in fields(TrainingConfig):
        if setting.name == "optimizer_options":
            continue  # for Python and for recipes: each optimizer has its own
        names = [f"--{setting.name.replace('_', '-')}"] + (["--context"] if setting.name == "length" else [])
        if isinstance(setting.default, bool):
            parser.add_argument(*names, action="store_true", default=None, help=f"(default: {setting.default})")
            continue
        count = {"nargs": 2} if setting.name == "betas" else {}
        kind = {"betas": float, "precision": str}.get(setting.name, type(setting.default))
        parser.add_argument(*names, type=number(kind), dest=setting.name, help=f"(default: {setting.default})", **count)
    parser.set_defaults(run=run_train)


def run_train(options: argparse.Namespace) -> int:
    from nl_course.training import distributed

    device = distributed.local_device(device_named(options.device))
    ranks = distributed.join(options.parallel, device)
    try:
        if ranks.first:
            return _run(options, device, ranks, print)
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # the first process speaks for all
            return _run(options, device, ranks, lambda *words, **how: print(*words, file=nowhere))
    finally:
        distributed.leave()


def _run(options: argparse.Namespace, device, ranks, say) -> int:
    import torch

    from nl_course.training.loop import TrainingConfig, train

    folder = Path(options.out or f"runs/{options.preset or 'tiny'}")
    before = started_with(folder) if options.resume else {}
    given = {name: value for name, value in vars(options).items() if value is not None}
    asked = ABOUT | before | given
    check_options(asked, options)
    config = TrainingConfig.from_dict({f.name: asked[f.name] for f in fields(TrainingConfig) if f.name in asked})
    if asked["data"] is None:
        asked["text"] = asked["text"] or "prose"
    model_config(asked["preset"], asked["memory"], 256)  # says at once if there is no such model
    stream, held_out, tokenizer, what = corpus(asked, config, folder, ranks)
    sizes = model_config(asked["preset"], asked["memory"], tokenizer.vocab)
    if held_out.numel() <= config.length:
        say(f"The held-out part, {held_out.numel():,} tokens, is too short to look at; it is left out.")
        held_out = None
    torch.manual_seed(config.seed)
    model = language_model(sizes).to(device)
    where = device.type if ranks.mode == "none" else f"{device.type}, {ranks.world} processes ({ranks.mode})"
    say(f"{asked['preset']} with {sizes.memory}, {model.parameter_count():,} parameters, on {where}. {what}")
    if options.estimate:
        say("Counting what a few chunks take; of deep memories and clocks that is a minute's work.", flush=True)
        say(estimated(model, stream, config, options, ranks))
        return 0
    show = not options.quiet and sys.stderr.isatty()
    on_step = None if show or options.quiet or not ranks.first else print_held_out
    about = {name: asked[name] for name in ABOUT} | {"tokenizer_hash": tokenizer.hash}
    run = train(
        model,
        stream,
        config,
        held_out=held_out,
        folder=folder,
        resume=options.resume,
        progress=show,
        on_step=on_step,
        about=about,
        parallel=ranks.mode,
    )
    say(run)
    if run.interrupted:
        say(f"Go on with: nl-course train --resume --out {folder}")
        return INTERRUPTED
    say(f"The model is {folder / 'model.safetensors'}, its curve {folder / 'metrics.jsonl'}.")
    return 0


def check_options(asked: dict[str, Any], options: argparse.Namespace) -> None:
    """Options that only make sense together."""
    if asked["data"] is not None and asked["text"] is not None:
        raise CourseError("take --text or --data, not both.")
    for name in ("column", "tokenizer"):
        if asked[name] is not None and asked["data"] is None:
            raise CourseError(f"--{name} is about --data; add --data FILES.")
    if options.vocab is not None and asked["tokenizer"] is None:
        raise CourseError("--vocab is about a new tokenizer; add --tokenizer FILE.")
    for name in ("accelerator", "price"):
        if getattr(options, name) is not None and not options.estimate:
            raise CourseError(f"--{name} is for --estimate.")


def corpus(asked: dict[str, Any], config, folder: Path, ranks):
    """What is read: the data for `train`, held-out tokens, the tokenizer, and a sentence about it."""
    from nl_course.tasks.packed import PackedStream
    from nl_course.tasks.tokenizer import BYTES

    if asked["data"] is None:
        books = library_named(asked["text"])
        return books.stream("train"), books.stream("held_out"), BYTES, str(books)
    column = asked["column"] or "text"
    tokenizer = tokenizer_named(asked, column, ranks) if asked["tokenizer"] else BYTES
    sizes = dict(batch_size=config.batch_size, length=config.length, column=column)
    stream = PackedStream(asked["data"], tokenizer, **sizes, positions=folder / "positions.jsonl", write=ranks.first)
    return stream, stream.held_out(), tokenizer, f"It reads {asked['data']} as {tokenizer}."


def tokenizer_named(asked: dict[str, Any], column: str, ranks):
    """The tokenizer in a file; where there is none yet, the first process makes it of the first books of --data."""
    from nl_course.tasks.packed import is_held_out
    from nl_course.tasks.streaming import stream_datasets
    from nl_course.tasks.tokenizer import load_tokenizer, train_tokenizer

    path = Path(asked["tokenizer"])
    if not path.exists() and ranks.first:
        read = 0

        def more(book) -> bool:
            nonlocal read
            read += len(book.text)
            return read - len(book.text) < LEARN_FROM

        books = (book for book in stream_datasets(asked["data"], column) if not is_held_out(book))
        train_tokenizer((b.text for b in takewhile(more, books)), asked.get("vocab") or 32_000).save(path)
    ranks.wait()
    return load_tokenizer(path)


def estimated(model, stream, config, options: argparse.Namespace, ranks):
    """What the run would take: by an accelerator's data sheet, or by a few real steps here."""
    from nl_course.training.estimate import estimate, probe

    speed = None if options.accelerator else probe(model, stream, config)
    return estimate(
        model.config,
        config,
        tokens_per_second=speed,
        accelerator=options.accelerator,
        price_per_hour=options.price,
        processes=ranks.world,
        parallel=ranks.mode,
    )


def print_held_out(metrics: dict[str, Any]) -> None:
    """Where no bar can be drawn: a line each time the held-out text was looked at."""
    if "held_out_loss" in metrics:
        print(
            f"step {metrics['step']:,}: loss {metrics['loss']:.3f}, held out {metrics['held_out_loss']:.3f}", flush=True
        )


def started_with(folder: Path) -> dict[str, Any]:
    """What the run in `folder` was asked for, to go on with."""
    from nl_course.training.checkpoint import read_info
    from nl_course.training.run_folder import asked_for, checkpoints

    if checkpoints(folder)[1]:
        asked = asked_for(folder)["asked"]
    else:
        info = read_info(folder / "checkpoint.safetensors")
        if info["kind"] != "training":
            raise CourseError(
                f"{folder / 'checkpoint.safetensors'} is a finished model, not a run that can be resumed."
            )
        asked = info["progress"]["asked"]
    return {name: value for name, value in asked.items() if name not in ("text_hash", "tokenizer_hash")}


def model_config(preset_name: str, memory: str | None, vocab: int):
    """The preset's sizes, reading bytes, with another memory if one is named."""
    from nl_course.nested import PRESETS as NESTED
    from nl_course.presets import PRESETS

    presets = {**PRESETS, **NESTED}
    config = presets[check_choice("preset", preset_name, presets)].config
    values = config.to_dict() | {"vocab": vocab}
    if memory is not None and memory != values["memory"]:
        values |= {"memory": memory, "options": {}}
    return type(config).from_dict(values)


def language_model(config):
    """The model of that config, with clocks or without."""
    from nl_course.model import LanguageModel
    from nl_course.nested import NestedConfig, NestedLanguageModel

    return (NestedLanguageModel if isinstance(config, NestedConfig) else LanguageModel)(config)


def library_named(name: str):
    """`prose` or `code` of the course's library, else the text in a file or a folder."""
    from nl_course.tasks import text

    if name in text.CORPORA:
        return text.library(name)
    if not Path(name).expanduser().exists():
        close = get_close_matches(name, text.CORPORA, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise CourseError(f"--text must be prose, code, or a file or folder that exists, not {name!r}.{guess}")
    return text.from_path(name)
