"""Measure encoding to a file: is memory flat, and does a killed run give the same bytes?

Synthetic texts of a few words and a tiny random model, so that reading, hashing and writing are
what is measured. Fresh processes encode 10,000 texts and then many more, for each kind of file, and
report their peak resident memory. Another one is killed by SIGKILL twice on its way and continued;
its files must have the SHA-256 of those of the unbroken run.

    python benchmarks/encode_to_file.py [--texts 1000000] [--folder FOLDER] [--endings .npy]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FEW = 10_000
LIMIT = 1.3
WORDS = [f"w{number}" for number in range(60)]


def main() -> None:
    """Run all kinds of files, print a table, and fail where memory grows or bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--endings", nargs="+", default=[".npy", ".parquet", ".jsonl"])
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    parser.add_argument("--step", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        model, corpus, out, window, kill_at = options.step
        encode(model, Path(corpus), Path(out), int(window), int(kill_at))
        return
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="effir-encode-") as folder:
        failures = measure(Path(folder), options.texts, options.endings, options.window)
    if failures:
        raise SystemExit("; ".join(failures))


def measure(folder: Path, texts: int, endings: list[str], window: int) -> list[str]:
    """Print a row for each kind of file and return what does not hold."""
    model = make_model(folder / "model")
    few, many = folder / "corpus-few.jsonl", folder / "corpus-many.jsonl"
    make_corpus(few, FEW)
    make_corpus(many, texts)
    failures = []
    print(f"| file | peak at {FEW:,} | peak at {texts:,} | ratio | texts/s | killed at | same |")
    print("|---|---|---|---|---|---|---|")
    for ending in endings:
        small = child(model, few, folder / f"few{ending}", window)
        large = child(model, many, folder / f"whole{ending}", window)
        ratio = large["peak_bytes"] / small["peak_bytes"]
        kills = [texts // 3, texts * 2 // 3]
        continued = killed_twice(model, many, folder / f"killed{ending}", window, kills)
        same = digests(folder / f"whole{ending}") == digests(folder / f"killed{ending}")
        print(
            f"| {ending} | {small['peak_bytes'] / 1e6:,.0f} MB | "
            f"{large['peak_bytes'] / 1e6:,.0f} MB | {ratio:.3f} | "
            f"{large['texts_per_second']:,.0f} | {kills[0]:,}, {kills[1]:,} "
            f"(continued at {continued:,}) | {'yes' if same else 'NO'} |",
            flush=True,
        )
        if ratio >= LIMIT:
            failures.append(f"{ending}: {ratio:.2f} times the memory, not under {LIMIT}")
        if not same:
            failures.append(f"{ending}: the continued file differs")
        for name in ("few", "whole", "killed"):
            (folder / f"{name}{ending}").unlink()
    return failures


def make_model(folder: Path) -> Path:
    """Write a random BERT of one layer with a tokenizer of sixty words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]"]
    vocabulary = {token: index for index, token in enumerate([*specials, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_corpus(path: Path, texts: int) -> None:
    """Write texts of 3 to 9 words, all different."""
    with path.open("w", encoding="utf-8") as stream:
        for row in range(texts):
            stream.write(json.dumps({"_id": f"doc-{row:08}", "text": " ".join(words(row))}) + "\n")


def words(row: int) -> Iterator[str]:
    """Yield the digits of a number to the base of the vocabulary, and a few more."""
    yield from (WORDS[row // 60**place % 60] for place in range(3 + row % 7))


def encode(model: str, corpus: Path, out: Path, window: int, kill_at: int) -> None:
    """Encode in this process; end it by SIGKILL when text `kill_at` is asked for."""
    import torch

    from effir_integrations import load
    from effir_integrations.corpus.to_file import encode_to_file
    from effir_integrations.data.corpus import corpus_pairs

    torch.set_num_threads(1)

    def killing() -> Iterator[tuple[str, str]]:
        for row, pair in enumerate(corpus_pairs(corpus)):
            if row == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair

    texts = killing() if kill_at >= 0 else corpus
    result = encode_to_file(load(model, device="cpu"), texts, out, window=window)
    content = {
        "rows": result.rows,
        "resumed_from": result.resumed_from,
        "texts_per_second": result.texts_per_second,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(content))


def child(model: Path, corpus: Path, out: Path, window: int, kill_at: int = -1) -> dict[str, float]:
    """Encode in a fresh process, and return its figures; none if it was to be killed."""
    step = [str(model), str(corpus), str(out), str(window), str(kill_at)]
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, __file__, "--step", *step],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if kill_at >= 0:
        if result.returncode != -signal.SIGKILL or out.exists():
            raise RuntimeError(f"the run was to be killed at {kill_at}, and was not")
        return {}
    if result.returncode:
        raise RuntimeError(f"the run failed after {time.perf_counter() - start:.0f} s")
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def killed_twice(model: Path, corpus: Path, out: Path, window: int, kills: list[int]) -> int:
    """Kill a run at each of these texts, continue it to the end, and say where that began."""
    for kill_at in kills:
        child(model, corpus, out, window, kill_at)
    resumed_from = int(child(model, corpus, out, window)["resumed_from"])
    lost = kills[-1] - resumed_from
    if not 0 <= lost <= window:
        raise RuntimeError(f"{lost:,} texts were lost, more than a window of {window:,}")
    return resumed_from


def digests(out: Path) -> list[str]:
    """Return the SHA-256 of a file of vectors and, if it has one, of its ids."""
    from effir_integrations.data.vector_files import ids_path
    from effir_integrations.files import file_sha256

    return [file_sha256(path) for path in (out, ids_path(out)) if path is not None]


if __name__ == "__main__":
    main()
