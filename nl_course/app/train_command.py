"""`nl-course train`: a model, a text, a run; on one device, or on several under torchrun; or only an estimate of it."""

import argparse
import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nl_course.app.curves import Curves, check_tensorboard
from nl_course.app.options import device_named
from nl_course.app.train_data import SOURCES, TOKENIZER_VOCAB, corpus, evaluated_tokens
from nl_course.errors import DONE, INTERRUPTED, REFUSED, CourseError, check_choice, check_int, shortened
from nl_course.files import check_folder

if TYPE_CHECKING:  # imported where they are needed: `nl-course --help` must not wait for torch
    import torch

    from nl_course.model import LanguageModel, ModelConfig
    from nl_course.nested import NestedConfig
    from nl_course.tasks.tokenizer import Bytes, TokenIds, Tokenizer
    from nl_course.training import Data, TrainingConfig
    from nl_course.training.distributed import Ranks
    from nl_course.training.estimate import Estimate
    from nl_course.training.evaluation import LengthTable

EXAMPLES = """\
example: nl-course train --preset tiny --text prose --steps 500 --out runs/first
         nl-course train --resume --out runs/first        goes on after ctrl-C, with the settings it was started with
         nl-course train --preset tiny --steps 500 --estimate        prints what that would take, and trains nothing
         nl-course train --data "shelf/*.jsonl" --tokenizer shelf.json --preset 125m       a corpus, read in order
         torchrun --nproc-per-node 8 -m nl_course train --preset 125m --parallel fsdp --out runs/large
"""
# What a run is about, beside the settings of TrainingConfig: its defaults. All of it is kept with the run.
ABOUT = {
    "preset": "tiny",
    "memory": None,
    "text": None,
    "data": None,
    "column": None,
    "tokenizer": None,
    "vocab": None,
    "separator": None,
    "split": None,
    "held_out_split": None,
    "width": None,
    "held_out": None,
}


def add_command(commands: argparse._SubParsersAction, about: str) -> None:
    """Adds `train` and its options, those of TrainingConfig among them, to the command line."""
    from nl_course.training import TrainingConfig

    parser = commands.add_parser("train", help=about, epilog=EXAMPLES)
    parser.add_argument("--preset", help="the model's size: micro, tiny, ttt-e2e-tiny, ... (default: tiny)")
    parser.add_argument(
        "--memory",
        help="the memory in its blocks, by name, or a file with one of your own, FILE.py as `check-memory` takes it "
        "(default: the preset's)",
    )
    parser.add_argument("--text", help="prose or code of the course's library, or a file or folder (default: prose)")
    parser.add_argument(
        "--data",
        help="instead of --text: .jsonl, .parquet, .csv, .txt files, packed token ids in .bin or .npy files, or a "
        "dataset on a hub, NAME or NAME:CONFIGURATION",
    )
    parser.add_argument(
        "--column", help="the column of --data that holds a text, or a list of token ids, per row (default: text)"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="subwords for --data: any tokenizer.json of the library tokenizers; trained on the data where there is no "
        "such file yet",
    )
    parser.add_argument(
        "--vocab",
        type=int,
        metavar="N",
        help=f"how many token ids there are, where --data holds ids; or subwords of a new tokenizer (default: "
        f"{TOKENIZER_VOCAB})",
    )
    parser.add_argument(
        "--separator",
        metavar="TOKEN",
        help="what ends a document: a token of --tokenizer, by its text or id, or one of the --vocab ids (default: the "
        "tokenizer's own)",
    )
    parser.add_argument("--split", help="of a dataset on a hub, the part to learn from (default: train)")
    parser.add_argument("--held-out-split", metavar="SPLIT", help="the same for --held-out (default: train)")
    parser.add_argument(
        "--width",
        metavar="TYPE",
        help="of the ids in .bin files without a header: uint16 or uint32 (default: the least that holds --vocab ids)",
    )
    parser.add_argument(
        "--held-out",
        metavar="FILES",
        help="what evaluations read, as --text or --data does; then nothing of that one is kept back from training "
        "(default: a twentieth of it is)",
    )
    parser.add_argument(
        "--reset-documents",
        action="store_true",
        help="begin with an empty state at each document inside a row, not only at the row's start",
    )
    parser.add_argument(
        "--evaluate-lengths",
        metavar="N,N,...",
        help="once trained, print the held-out loss at contexts of so many tokens each, also longer than --length",
    )
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/PRESET)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint in the run's folder; its --text, --data and --tokenizer files are named again",
    )
    parser.add_argument(
        "--trust", action="store_true", help="the run's folder is your own: its sharded checkpoint may hold pickles"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    parser.add_argument(
        "--compile",
        nargs="?",
        const="inductor",
        metavar="BACKEND",
        help="compile the model's blocks with torch.compile, whose first step then takes longer (default backend: "
        "inductor)",
    )
    parser.add_argument(
        "--tensorboard", metavar="DIR", help="also write the curves for TensorBoard, into a folder under DIR"
    )
    parser.add_argument("--parallel", default="auto", help="ddp or fsdp, under torchrun; auto is ddp there, else none")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--estimate", action="store_true", help="print what it takes, from a few real steps, and stop")
    parser.add_argument("--accelerator", help="for --estimate: from this accelerator's data sheet, without any steps")
    parser.add_argument("--price", type=float, help="for --estimate: price per device and hour, in your money")
    for setting in fields(TrainingConfig):
        # Each optimizer has options of its own. They are set from Python and by recordings only.
        # What ends a document is known by the tokenizer.
        if setting.name not in ("optimizer_options", "reset_at"):
            _add_setting(parser, setting.name, setting.default, setting.metadata["meaning"])
    # Loaded before the work begins: while torch is half loaded, ctrl-C cannot be handled (see app/start.py).
    parser.set_defaults(
        run=run_train, needs=("nl_course.training.distributed", "nl_course.tasks.packed", "nl_course.tasks.token_files")
    )


def _add_setting(parser: argparse.ArgumentParser, name: str, default: Any, meaning: str) -> None:
    """Adds a setting of TrainingConfig as an option. Options that are not given stay None, so that a resumed run can
    tell them from those that are."""
    names = [f"--{name.replace('_', '-')}"]
    if name == "length":
        names.append("--context")
    if isinstance(default, bool):
        parser.add_argument(*names, action="store_true", default=None, help=meaning)
        return
    if name == "betas":
        numbers = {"nargs": 2, "type": float, "metavar": ("B1", "B2")}
        shown = " ".join(map(str, default))
    else:
        numbers = {"type": type(default), "metavar": "NAME" if isinstance(default, str) else "N"}
        shown = default
    parser.add_argument(*names, dest=name, help=f"{meaning} (default: {shown})", **numbers)


def run_train(options: argparse.Namespace) -> int:
    """Trains, or estimates, and returns the exit code. Under torchrun every process calls it."""
    from nl_course.training import distributed

    try:
        device = distributed.local_device(device_named(options.device))
        ranks = distributed.join(options.parallel, device)
        if ranks.is_main:
            return _run(options, device, ranks, print)
        # Only the main process prints; otherwise every line would stand there once per process.
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            return _run(options, device, ranks, lambda *words, **how: print(*words, file=nowhere))
    except (CourseError, OSError):
        if distributed.main_tells():
            return REFUSED
        raise
    finally:
        distributed.leave()


def _run(options: argparse.Namespace, device: "torch.device", ranks: "Ranks", print_line: Callable[..., None]) -> int:
    """Settles what is asked for, and trains or estimates it."""
    folder = check_folder(options.out or f"runs/{options.preset or 'tiny'}", "the run's folder")
    # Later ones win: defaults, then what a resumed run was started with, then what the command line gives now. If the
    # last two contradict each other, `train` refuses and names the setting.
    before = started_with(folder) if options.resume else {}
    given = {name: value for name, value in vars(options).items() if value is not None}
    if options.resume:
        check_sources(folder, before, given)
    settings = ABOUT | before | given
    check_options(settings, options)
    with memory_named(settings["memory"]) as memory:
        return _train(settings, memory, options, folder, device, ranks, print_line)


def _train(
    settings: dict[str, Any],
    memory: str | None,
    options: argparse.Namespace,
    folder: Path,
    device: "torch.device",
    ranks: "Ranks",
    print_line: Callable[..., None],
) -> int:
    """`_run` with settings that are settled; `memory` is the name of one that can be built, None for the preset's."""
    import torch

    from nl_course.seeding import seeded
    from nl_course.tasks.tokenizer import BYTES
    from nl_course.training import TrainingConfig, train
    from nl_course.training.blocks import compile_blocks, compile_errors
    from nl_course.training.estimate import check_room
    from nl_course.training.run_folder import check_run_folder

    config = TrainingConfig.from_dict({f.name: settings[f.name] for f in fields(TrainingConfig) if f.name in settings})
    lengths = lengths_in(options.evaluate_lengths)
    longest = max([config.length, *lengths])
    if settings["data"] is None:
        settings["text"] = settings["text"] or "prose"
    # What cannot be built, or cannot fit, is refused before the text is read.
    from_data_sheet = options.estimate and options.accelerator is not None
    shape = model_config(settings["preset"], memory, BYTES.vocab)
    if not from_data_sheet:
        check_room(shape, config, device, ranks.world_size)
    if not options.estimate:
        # `train` looks again. But a corpus takes long to read, and a tokenizer is written.
        with ranks.together():
            if ranks.is_main:
                check_run_folder(folder, options.resume)

    # The data.
    stream, held_out, tokenizer, description, hashes = corpus(settings, config, folder, ranks, longest)
    hashes |= memory_hash(settings["memory"])
    if options.reset_documents:
        config = replace(config, reset_at=end_of_document(tokenizer))
    check_room_for(lengths, held_out)
    if held_out.numel() <= config.length:
        print_line(f"The held-out part, {held_out.numel():,} tokens, is too short for an evaluation; it is left out.")
        held_out = None

    # The model. Its weights depend on the seed alone.
    if tokenizer.vocab != shape.vocab:
        shape = model_config(settings["preset"], memory, tokenizer.vocab)
        if not from_data_sheet:
            check_room(shape, config, device, ranks.world_size)
    # For a data sheet the model is only counted, so it needs no memory.
    with seeded(config.seed), torch.device("meta" if from_data_sheet else "cpu"):
        model = language_model(shape)
    if not from_data_sheet:
        model = model.to(device)
    where = device.type if ranks.mode == "none" else f"{device.type}, {ranks.world_size} processes ({ranks.mode})"
    what = f"{settings['preset']} with {model.config.memory}, {model.parameter_count():,} parameters"
    print_line(f"{what}, on {where}. {description}")
    if options.estimate:
        print_line("Counting what a few chunks take; of deep memories and clocks that is a minute's work.", flush=True)
        print_line(estimated(model, stream, config, options, ranks))
        return DONE

    # The run.
    if options.compile is not None:
        compile_blocks(model, options.compile)
    listeners = []
    show_bar = not options.quiet and sys.stderr is not None and sys.stderr.isatty()
    if ranks.is_main and not show_bar and not options.quiet:
        listeners.append(print_held_out)
    with ExitStack() as stack:
        stack.enter_context(compile_errors())
        if options.tensorboard is not None and ranks.is_main:
            listeners.append(stack.enter_context(Curves(options.tensorboard, folder.name)))
        run = train(
            model,
            stream,
            config,
            held_out=held_out,
            folder=folder,
            resume=options.resume,
            trust=options.trust,
            progress=show_bar,
            on_step=lambda metrics: tell_all(listeners, metrics),
            about={name: settings[name] for name in ABOUT} | hashes,
            parallel=ranks.mode,
        )
    print_line(run)
    if run.interrupted:
        print_line(f"Go on with: {resume_command(folder, settings)}")
        return INTERRUPTED
    if lengths:
        print_line(evaluated_lengths(model, stream, held_out, lengths, config, folder, ranks))
    print_line(f"The model is {folder / 'model.safetensors'}, its curve {folder / 'metrics.jsonl'}.")
    return DONE


def check_options(settings: dict[str, Any], options: argparse.Namespace) -> None:
    """Raises CourseError for options that make no sense together."""
    if settings["data"] is not None and settings["text"] is not None:
        raise CourseError("take --text or --data, not both.")
    for name in ("column", "tokenizer", "vocab", "width", "split", "held_out_split"):
        if settings[name] is not None and settings["data"] is None:
            raise CourseError(f"{option(name)} is about --data; add --data FILES.")
    for name in ("evaluate_lengths", "compile", "tensorboard"):
        if getattr(options, name) is not None and options.estimate:
            raise CourseError(f"{option(name)} is for a run, and --estimate trains nothing.")
    if options.tensorboard is not None:
        check_tensorboard()
        check_folder(options.tensorboard, "the folder for TensorBoard")
    if options.compile is not None and options.parallel == "fsdp":
        raise CourseError("--compile is for whole blocks, and --parallel fsdp splits them; use ddp.")
    if settings["separator"] is not None and settings["vocab"] is None and settings["tokenizer"] is None:
        raise CourseError("--separator is about token ids; add --tokenizer FILE or --vocab N.")
    for name in ("accelerator", "price"):
        if getattr(options, name) is not None and not options.estimate:
            raise CourseError(f"--{name} is for --estimate.")


def estimated(
    model: "LanguageModel",
    stream: "Data",
    config: "TrainingConfig",
    options: argparse.Namespace,
    ranks: "Ranks",
) -> "Estimate":
    """What the run would take: by an accelerator's data sheet, or by a few real steps on this machine."""
    from nl_course.training.estimate import estimate, probe

    speed = None if options.accelerator else probe(model, stream, config)
    return estimate(
        model.config,
        config,
        tokens_per_second=speed,
        accelerator=options.accelerator,
        price_per_hour=options.price,
        processes=ranks.world_size,
        parallel=ranks.mode,
    )


@contextmanager
def memory_named(name: str | None) -> Iterator[str | None]:
    """Inside, models can be built with the memory of the yielded name; one in a file has the file's."""
    if not is_file_of_memory(name):
        yield name
        return
    from nl_course.suite.check import load_memory, registered

    with registered(load_memory(name)) as own:
        yield own


def is_file_of_memory(name: str | None) -> bool:
    """Whether --memory names a file, and not one of the course's memories."""
    return name is not None and name.endswith(".py")


def memory_hash(name: str | None) -> dict[str, str]:
    """By what a resumed run knows the file of a memory again; nothing for one of the course's."""
    if not is_file_of_memory(name):
        return {}
    return {"memory_hash": hashlib.sha256(Path(name).read_bytes()).hexdigest()[:12]}


def end_of_document(tokenizer: "Tokenizer | Bytes | TokenIds") -> int:
    """The token that ends a document. Raises CourseError where nobody says which."""
    if tokenizer.separator is None:
        raise CourseError("--reset-documents needs to know which token id ends a document; add --separator ID.")
    return tokenizer.separator


def lengths_in(text: str | None) -> list[int]:
    """The context lengths in "256,1024,4096", the shortest first. Raises CourseError for anything else."""
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit()):
            raise CourseError(
                f"--evaluate-lengths takes numbers of tokens, such as 256,1024,4096; {shortened(part)} is none."
            )
    return sorted({check_int("--evaluate-lengths", int(part), 1) for part in parts})


def check_room_for(lengths: list[int], held_out: "torch.Tensor") -> None:
    """Raises CourseError if the held-out tokens are too few for one of the context lengths."""
    for length in lengths:
        if held_out.numel() <= length:
            raise CourseError(
                f"--evaluate-lengths {length} needs {length + 1:,} held-out tokens, and there are "
                f"{held_out.numel():,}; take shorter contexts, or more text with --held-out FILES."
            )


def evaluated_lengths(
    model: "LanguageModel",
    stream: "Data",
    held_out: "torch.Tensor",
    lengths: list[int],
    config: "TrainingConfig",
    folder: Path,
    ranks: "Ranks",
) -> "LengthTable":
    """The held-out loss at each context length; the main process keeps it in the run's folder too."""
    from nl_course.tasks.tokenizer import token_unit
    from nl_course.training.evaluation import evaluate_lengths
    from nl_course.training.run_folder import write_lengths

    unit = token_unit(stream)["bytes_per_token"]
    held_out = held_out[: evaluated_tokens(config, max(lengths))]
    table = evaluate_lengths(model, held_out, lengths, config, unit)
    with ranks.together():
        if ranks.is_main:
            write_lengths(folder, table.to_dict())
    return table


def tell_all(listeners: list[Callable[[dict[str, Any]], None]], metrics: dict[str, Any]) -> None:
    """Gives a step's metrics to each of the listeners."""
    for listener in listeners:
        listener(metrics)


def print_held_out(metrics: dict[str, Any]) -> None:
    """Where no bar can be drawn: prints a line for each evaluation on the held-out text."""
    if "held_out_loss" in metrics:
        print(
            f"step {metrics['step']:,}: loss {metrics['loss']:.3f}, held out {metrics['held_out_loss']:.3f}", flush=True
        )


def started_with(folder: Path) -> dict[str, Any]:
    """The settings of the run in `folder`, to go on with. Raises CourseError if there is no run to resume."""
    from nl_course.training.checkpoint import read_info
    from nl_course.training.resuming import HASHES
    from nl_course.training.run_folder import checkpoints, sharded_progress

    _, sharded = checkpoints(folder)
    if sharded:
        settings = sharded_progress(folder).get("asked")
    else:
        path = folder / "checkpoint.safetensors"
        info = read_info(path)
        if info["kind"] != "training":
            raise CourseError(f"{path} is a finished model, not a run that can be resumed.")
        settings = info["progress"].get("asked")
    if not isinstance(settings, dict):
        raise CourseError(f"the checkpoint in {folder} does not say with which settings its run was started.")
    # Hashes are no options: they are computed again, and `train` compares them.
    return {name: value for name, value in settings.items() if name not in HASHES}


def check_sources(folder: Path, before: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises CourseError unless the command line names the files and datasets that the run in `folder` reads.

    `before` is what the checkpoint says, and `given` are the command's options. What a file says is compared with
    them, and never opened, made or looked up.
    """
    for name in SOURCES:
        recorded = before.get(name)
        if recorded is not None and not isinstance(recorded, str):
            raise CourseError(f"the checkpoint in {folder} is damaged: its {name} is {shortened(recorded)}.")
        if name in given and recorded is not None and given[name] != recorded:
            raise CourseError(
                f"the run in {folder} was started with {name} = {printable(recorded)}, not {given[name]}; "
                "resume it with what it was started with, or start another folder."
            )
    missing = [name for name in SOURCES if name not in given and needs_naming(name, before.get(name))]
    if missing:
        options = " and ".join(f"{option(name)} {printable(before[name])}" for name in missing)
        raise CourseError(
            f"the run in {folder} reads {options}; a checkpoint may come from anyone, so say this yourself: "
            f"{resume_command(folder, before)}"
        )


def needs_naming(name: str, value: str | None) -> bool:
    """Whether this source is a file or the name of a dataset, and not a part of the course."""
    from nl_course.tasks.text import CORPORA

    if name == "memory":
        return is_file_of_memory(value)
    return value is not None and not (name == "text" and value in CORPORA)


def resume_command(folder: Path, settings: dict[str, Any]) -> str:
    """The command that goes on with a run."""
    words = ["nl-course train --resume --out", shlex.quote(str(folder))]
    for name in SOURCES:
        if needs_naming(name, settings.get(name)):
            words.append(f"{option(name)} {printable(settings[name])}")
    return " ".join(words)


def option(name: str) -> str:
    """A setting as the command line calls it."""
    return f"--{name.replace('_', '-')}"


def printable(text: str) -> str:
    """A text from a file as a word of a command; one that could disturb a terminal, or is long, as Python writes it."""
    return shlex.quote(text) if text.isprintable() and len(text) <= 200 else shortened(text, 200)


def model_config(preset_name: str, memory: str | None, vocab: int) -> "ModelConfig | NestedConfig":
    """The preset's sizes with a vocabulary of `vocab` tokens, and with another memory if one is named.

    Raises CourseError for an unknown preset or memory.
    """
    from nl_course.nested import PRESETS as NESTED
    from nl_course.presets import PRESETS

    presets = {**PRESETS, **NESTED}
    config = presets[check_choice("preset", preset_name, presets)].config
    values = config.to_dict() | {"vocab": vocab}
    if memory is not None and memory != values["memory"]:
        # The preset's options belong to its own memory; another one starts from its defaults.
        values |= {"memory": memory, "options": {}}
    return type(config).from_dict(values)


def language_model(config: "ModelConfig | NestedConfig") -> "LanguageModel":
    """The model of that config, with clocks or without, with initial weights."""
    from nl_course.model import LanguageModel
    from nl_course.nested import NestedConfig, NestedLanguageModel

    if isinstance(config, NestedConfig):
        return NestedLanguageModel(config)
    return LanguageModel(config)
