"""The options that several verbs of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL_HELP = "Model folder, name on the hub, or effir-mini, which comes with the package."
Model = Annotated[str, typer.Argument(help=MODEL_HELP)]
Run = Annotated[Path, typer.Argument(help="Run folder: importance.json and plan.json live there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no tables.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Texts = Annotated[
    str | None,
    typer.Option(
        help="Calibration texts: a .jsonl or .txt file, a BEIR folder, a datasets name. "
        "Default: the 256 texts shipped with the package."
    ),
]
TextCount = Annotated[int, typer.Option(help="How many calibration texts to draw.")]
MaxLength = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens a text is cut to. Default: the model's own limit."),
]
TruncateDim = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Keep so many leading numbers of every vector, as Matryoshka models allow it. "
        "Default: all.",
    ),
]
Documents = Annotated[
    str | None,
    typer.Option(
        metavar="FULL", help="Model whose documents are searched, as if its index were kept."
    ),
]
Dtype = Annotated[str, typer.Option(help="auto (the checkpoint's own), fp32, bf16 or fp16.")]
FromDisk = Annotated[
    bool,
    typer.Option(
        "--from-disk",
        help="Read the checkpoint layer by layer or tensor by tensor, for "
        "a model that is larger than memory.",
    ),
]
Bidirectional = Annotated[
    bool,
    typer.Option(
        "--bidirectional",
        help="Let every token of a bare decoder attend to those after it as well; the folder that "
        "is written keeps it.",
    ),
]
Data = Annotated[str, typer.Option(help="BEIR folder, or a datasets name such as mteb/scifact.")]
Split = Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv to use.")]
DropSameId = Annotated[
    str,
    typer.Option(
        help="Leave the document of a query's own id out of what it finds, as ArguAna and Quora "
        "need: yes, no, or auto, which does so unless such a document is judged relevant."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts in each batch.")]
EncodingPrecision = Annotated[
    str,
    typer.Option(
        help="auto (bf16 where the hardware has it, else fp32), fp32, bf16, int8, int8-dynamic or "
        "nf4."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, mps. Default: an accelerator where there is one."),
]
