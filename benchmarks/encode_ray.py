"""A corpus on a local Ray cluster of two actors, against a single process.

Vectors and ids are compared, one actor is killed half-way, and the driver's memory is read for two
sizes of the corpus, each in a process of its own.

    python benchmarks/encode_ray.py
    python benchmarks/encode_ray.py --model MODEL --texts 1000 5000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from minilm import MINILM_HELP, minilm

from effir_integrations import load
from effir_integrations.corpus.on_ray import ClusterConfig, encode_on_ray

WORDS = "time water city music river number school paper light animal history language".split()


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=MINILM_HELP)
    parser.add_argument("--texts", type=int, nargs=2, default=[10_000, 50_000])
    parser.add_argument("--words", type=int, default=12, help="of the longest text")
    parser.add_argument("--shard-bytes", type=int, default=1 << 18)
    parser.add_argument("--driver", nargs=3, metavar=("MODEL", "CORPUS", "OUT"), help="internal")
    return parser.parse_args()


def write_corpus(path: Path, texts: int, words: int) -> None:
    """Write texts that are all different."""
    choose = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(texts):
            text = " ".join(choose.choices(WORDS, k=choose.randint(2, words)))
            file.write(json.dumps({"_id": f"d{number}", "text": f"{number} {text}"}) + "\n")


def peak_megabytes() -> float:
    """Return the largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def kill_one_actor(out: Path, shards: int, killed: list[int]) -> None:
    """Kill the first actor that is found once so many shards are there."""
    while len(list(out.glob("part-*.parquet"))) < shards:
        time.sleep(0.05)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mine = os.stat(folder).st_uid == os.getuid() and own_cluster(int(folder.name))
            if mine and "PartEncoder" in (folder / "cmdline").read_text():
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(int(folder.name))
                return
        except (FileNotFoundError, ProcessLookupError):
            continue


def own_cluster(process: int) -> bool:
    """Say whether a process descends from this one."""
    while process > 1:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
        process = int(stat.rpartition(")")[2].split()[1])
        if process == os.getpid():
            return True
    return False


def drive(model: str, corpus: str, out: str, shard_bytes: int) -> None:
    """Encode with two actors, of which one is killed, and print what it took."""
    before = peak_megabytes()
    shards = -(-Path(corpus).stat().st_size // shard_bytes)
    killed: list[int] = []
    killer = threading.Thread(
        target=kill_one_actor, args=(Path(out), shards // 2, killed), daemon=True
    )
    killer.start()
    start = time.perf_counter()
    config = ClusterConfig(actors=2, shard_bytes=shard_bytes)
    result = encode_on_ray(model, corpus, out, config=config)
    print(
        json.dumps(
            {
                "texts": result.texts,
                "shards": result.shards,
                "actors killed": len(killed),
                "seconds": round(time.perf_counter() - start, 1),
                "driver MB before": round(before),
                "driver MB at most": round(peak_megabytes()),
            }
        )
    )


def compare(model: str, corpus: Path, out: Path) -> None:
    """Print how far the shards are from the vectors of this process."""
    import pyarrow.parquet as parquet

    records = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    encoder = load(model)
    start = time.perf_counter()
    expected = encoder.encode([record["text"] for record in records])
    print(f"single process: {time.perf_counter() - start:.1f} s, without loading")
    table = parquet.read_table(str(out))
    ids = table["docid"].to_pylist()
    once = sorted(ids) == sorted(record["_id"] for record in records)
    places = {record["_id"]: place for place, record in enumerate(records)}
    largest = 0.0
    row = 0
    for batch in table.to_batches():
        values = batch["vector"].flatten().to_numpy().reshape(batch.num_rows, -1)
        wanted = expected[[places[key] for key in ids[row : row + batch.num_rows]]]
        largest = max(largest, float(np.abs(values - wanted).max()))
        row += batch.num_rows
    print(f"{len(ids):,} texts, every id exactly once: {once}; largest difference {largest:.1e}")


def main() -> None:
    """Print a line for each size of the corpus and the comparison for the larger one."""
    options = arguments()
    if options.driver:
        model, corpus, out = options.driver
        drive(model, corpus, out, options.shard_bytes)
        return
    model = options.model or minilm()
    with tempfile.TemporaryDirectory() as folder:
        for texts in options.texts:
            corpus, out = Path(folder) / f"{texts}.jsonl", Path(folder) / f"{texts}"
            write_corpus(corpus, texts, options.words)
            driver = [model, str(corpus), str(out)]
            command = [sys.executable, __file__, "--driver", *driver]
            command += ["--shard-bytes", str(options.shard_bytes)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(done.stdout.strip().splitlines()[-1], flush=True)
        compare(model, corpus, out)


if __name__ == "__main__":
    main()
