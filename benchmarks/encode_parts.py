"""What `encode.py` is put together from: texts, models, and meters of time, work and memory."""

from __future__ import annotations

import gc
import math
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from minilm import minilm
from torch.utils.flop_counter import FlopCounterMode

from effir_integrations import export, load
from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.folder import save
from effir_integrations.encoder.history import history_at
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan

Run = Callable[[], Any]
"""Encodes all texts of a job; returns a list of arrays or of lists of numbers, in order."""
MODELS = ("minilm", "decoder", "pruned")
WORKLOADS = ("documents", "queries", "mixed", "one", "ten")
INSTRUCTION = (
    "Instruct: Given a scientific claim, retrieve the abstracts of published studies that support "
    "or refute it, with the most relevant of them first\nQuery: "
)
"""30 tokens of MiniLM's tokenizer."""
PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "pyserini",
    "llama-index-core",
    "llama-index-embeddings-huggingface",
)
MEDIAN_WORDS, SIGMA, FEWEST, MOST = 64, 0.9, 5, 400


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model and the texts that every contender encodes with it."""

    folder: Path
    """Sentence Transformers folder."""
    decoder: bool
    """Last-token pooling, and bf16 for all; else mean pooling, and fp32 where it is a default."""
    texts: Sequence[str]
    """Without prompt."""
    prompt: str
    """Put in front of every text; may be empty."""
    per_call: int
    """Texts a call; as many as there are texts where the caller has them all."""
    max_length: int
    """Tokens, prompt included."""
    device: str
    """As in torch."""
    scratch: Path
    """Folder for what a contender reads from disk."""

    @property
    def whole(self) -> bool:
        """Whether all texts are handed over at once."""
        return self.per_call >= len(self.texts)

    def calls(self) -> list[list[str]]:
        """Return the texts, cut into calls."""
        return [
            list(self.texts[start : start + self.per_call])
            for start in range(0, len(self.texts), self.per_call)
        ]

    def count_tokens(self) -> int:
        """Count the tokens of all texts, special ones and prompt included, as truncated."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        texts = [self.prompt + text for text in self.texts]
        encoded = tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        return sum(len(ids) for ids in encoded)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything is measured."""

    documents: int
    """Documents of the corpus, from its beginning, and texts of mixed lengths, for MiniLM."""
    queries: int
    """Judged queries for MiniLM; 0: all."""
    decoder_documents: int
    """As `documents`, for the decoders."""
    decoder_queries: int
    """As `queries`, for the decoders."""
    layers: int
    """Layers of the decoders."""
    length: int
    """Tokens a text, for MiniLM."""
    decoder_length: int
    """Tokens a text, for the decoders."""


class Inputs:
    """Makes jobs, and the decoders where they are not there yet."""

    def __init__(self, data: Path, work: Path, sizes: Sizes, device: str) -> None:
        self.work = work
        self.sizes = sizes
        self.device = device
        self.data: RetrievalData = load_beir(data, "test")

    def job(self, model: str, workload: str) -> Job:
        """Return what one part measures."""
        decoder = model != "minilm"
        texts = self._texts(workload, decoder)
        per_call = {"one": 1, "ten": 10}.get(workload, len(texts))
        return Job(
            folder=self.folder(model),
            decoder=decoder,
            texts=texts,
            prompt=INSTRUCTION if workload in ("queries", "one") else "",
            per_call=per_call,
            max_length=self.sizes.decoder_length if decoder else self.sizes.length,
            device=self.device,
            scratch=self.work,
        )

    def _texts(self, workload: str, decoder: bool) -> list[str]:
        sizes = self.sizes
        documents = list(self.data.documents.values())
        if workload in ("queries", "one"):
            count = sizes.decoder_queries if decoder else sizes.queries
            queries = list(self.data.queries.values())
            return queries[: count or len(queries)]
        count = sizes.decoder_documents if decoder else sizes.documents
        return mixed_lengths(documents, count) if workload == "mixed" else documents[:count]

    def folder(self, model: str) -> Path:
        """Return the folder of a model; the decoders are written on first use."""
        if model == "minilm":
            return Path(minilm())
        name = f"{model}-{self.sizes.layers}-layers"
        folder = self.work / name
        if not folder.is_dir():
            print(f"writing {folder}", flush=True)
            if model == "decoder":
                write_decoder(folder, self.sizes.layers)
            else:
                write_pruned(self.folder("decoder"), folder)
        return folder


def mixed_lengths(documents: Sequence[str], count: int) -> list[str]:
    """Return texts of log-normal length, 5 to 400 words, drawn from the words of documents."""
    generator = torch.Generator().manual_seed(0)
    words = " ".join(documents).split()
    texts = []
    for _ in range(count):
        spread = math.exp(SIGMA * float(torch.randn((), generator=generator)))
        length = min(max(round(MEDIAN_WORDS * spread), FEWEST), MOST)
        drawn = torch.randint(len(words), (length,), generator=generator)
        texts.append(" ".join(words[index] for index in drawn.tolist()))
    return texts


def write_decoder(folder: Path, layers: int) -> None:
    """Write a random decoder of the shape of Qwen3-Embedding-0.6B, with MiniLM's tokenizer."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    tokenizer.eos_token = tokenizer.sep_token
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=folder.parent) as bare:
        model: Any = Qwen3Model(config)
        model.to(torch.bfloat16).save_pretrained(bare)
        tokenizer.save_pretrained(bare)
        encoder = load(bare, device="cpu")
        save(encoder, history_at(encoder, bare), folder)


def write_pruned(base: Path, folder: Path) -> None:
    """Write a decoder with half of the neurons in every layer, taken at random."""
    encoder = load(base, device="cpu")
    identity = BaseIdentity.of(transformer_model(encoder))
    generator = torch.Generator().manual_seed(0)
    neurons = {
        layer: torch.randperm(width, generator=generator)[: width // 2].sort().values
        for layer, width in enumerate(identity.mlp_widths)
    }
    export(encoder, PruningPlan(base=identity, neurons=neurons), folder)


def take_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every run in every round; each round begins with another."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            start = time.perf_counter()
            vectors = runs[name]()
            seconds[name].append(time.perf_counter() - start)
            del vectors
    return seconds


def count_operations(run: Run) -> int:
    """Count the floating-point operations of the matrix products and the attention of a run."""

    def attention(
        query: Any, key: Any, value: Any, *others: Any, out_shape: Any = None, **more: Any
    ) -> int:
        batch, heads, queries, size = query
        return 2 * batch * heads * queries * key[2] * (size + value[3])

    # the counter has no formula for the attention kernel of processors
    missing = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        run()
    total = int(counter.get_total_flops())
    if not total:
        raise RuntimeError("no operation was counted; the encoder runs kernels unknown to torch")
    return total


def reset_peak(device: str) -> float:
    """Forget the peak of memory so far, and return what is in use, bytes."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    Path("/proc/self/clear_refs").write_text("5")
    return peak(device)


def peak(device: str) -> float:
    """Return the peak of memory since `reset_peak`, bytes."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated())
    # not getrusage, whose peak a process inherits from the one that started it
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) * 1024
    raise RuntimeError("this system does not say how much memory was used; use --skip-memory")


def environment() -> dict[str, str]:
    """Return the processor and the versions that a measurement is of."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
