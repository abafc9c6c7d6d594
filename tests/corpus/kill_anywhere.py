"""Kill runs that encode to a file before every step that touches the disk, and continue each.

    python kill_anywhere.py MODEL FOLDER

Prints a JSON list of what was found after each kill. Runs alone, because it forks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

from effir_integrations import load
from effir_integrations.corpus.resume import may_replace
from effir_integrations.corpus.to_file import encode_to_file

WINDOW = 4
PAIRS = [(f"d{row}", f"w{row} w{row % 7} w{row % 3}") for row in range(6)]
STEPS = ("fsync", "replace", "unlink")
CASES = [(".npy", False), (".npy", True), (".parquet", False), (".jsonl", True)]


def kill_before(number):
    """Make the process end at the step of that number, as a power cut would."""
    seen = 0

    def stopping(step):
        def run(*arguments, **options):
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments, **options)

        return run

    for name in STEPS:
        setattr(os, name, stopping(getattr(os, name)))


def content(folder):
    """Return the bytes of every file of a folder that is no unfinished work and no lock."""
    paths = (path for path in sorted(folder.iterdir()) if path.is_file())
    return {path.name: path.read_bytes() for path in paths if ".partial" not in path.name}


def run(encoder, out, *, force=False):
    """Encode everything to a file."""
    return encode_to_file(encoder, iter(PAIRS), out, window=WINDOW, force=force)


def killed_at(encoder, folder, ending, number, *, force):
    """Kill a run, look at what is there, continue it; None if it ended before it was killed."""
    folder.mkdir(parents=True)
    out = folder / f"v{ending}"
    if force:
        encode_to_file(encoder, [("old", "w1")], out)
    old = content(folder)
    child = os.fork()
    if child == 0:
        kill_before(number)
        run(encoder, out, force=force)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        return None
    there = content(folder)
    finished = out.name in there and there != old
    if finished and not (force and may_replace(out)):
        resumed = len(PAIRS)
    else:
        # a forced run that had not come to its first window is simply given again
        again = force and there == old and not may_replace(out)
        resumed = run(encoder, out, force=again).resumed_from
    return {
        "ending": ending,
        "force": force,
        "number": number,
        "resumed": resumed,
        "old": there == old,
        "there": there,
        "now": content(folder),
    }


def main():
    """Kill at every step of every case: a kind of file, and whether it replaces an old one."""
    torch.set_num_threads(1)
    encoder = load(sys.argv[1], device="cpu")
    root = Path(sys.argv[2])
    found = []
    for ending, force in CASES:
        unbroken = root / f"unbroken{ending}-{force}"
        unbroken.mkdir()
        run(encoder, unbroken / f"v{ending}")
        expected = content(unbroken)
        for number in count(1):
            folder = root / f"killed{ending}-{force}-{number}"
            seen = killed_at(encoder, folder, ending, number, force=force)
            shutil.rmtree(folder)
            if seen is None:
                break
            seen.update(judged(seen.pop("there"), seen.pop("now"), expected, f"v{ending}"))
            found.append(seen)
    sys.stdout.write(json.dumps(found))


def judged(there, now, expected, out):
    """Compare what a kill left, and what the next run made of it, with an unbroken run."""
    return {"whole": out not in there or there == expected, "same_bytes": now == expected}


if __name__ == "__main__":
    main()
