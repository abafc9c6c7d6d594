"""A cluster makes the vectors of a single process, whatever is killed in between."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import fresh
import numpy as np
import pytest
from tiny import WORDS, save_bare

import effir_integrations
from effir_integrations.corpus.on_ray import ClusterConfig, encode_on_ray

ray = pytest.importorskip("ray")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray.data")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds actors in /proc")

TEXTS = 2_000
# some 60 shards, so that there is work left when something is killed after the first
CONFIG = ClusterConfig(actors=2, shard_bytes=4_000, window=16)
ONE_ACTOR = replace(CONFIG, actors=1)
DRIVER = """
import sys
from effir_integrations.corpus.on_ray import ClusterConfig, encode_on_ray
config = ClusterConfig(actors=1, shard_bytes=4_000, window=4)
encode_on_ray(*sys.argv[1:4], config=config)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_bare("bert", tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    choose = random.Random(0)
    return {
        str(number): " ".join(choose.choices(WORDS, k=choose.randint(1, 40)))
        for number in range(TEXTS)
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, texts) -> str:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    lines = [
        json.dumps({"_id": key, "title": None, "text": text, "metadata": {"length": [len(text)]}})
        for key, text in texts.items()
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def expected(model, texts) -> dict[str, np.ndarray]:
    vectors = effir_integrations.load(model).encode(list(texts.values()))
    return dict(zip(texts, vectors, strict=True))


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=100_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


def shards(out: Path) -> list[Path]:
    return sorted(out.glob("part-*.parquet"))


def wait_for_shards(out: Path, number: int) -> None:
    limit = time.monotonic() + 400
    while len(shards(out)) < number:
        assert time.monotonic() < limit, f"no shards in {out}"
        time.sleep(0.005)


def actors_below(process: int) -> list[int]:
    """Return the encoding actors that a process has started, by way of others."""
    parents, actors = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if "PartEncoder" in (folder / "cmdline").read_text():
                actors.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue

    def is_below(child: int) -> bool:
        while child in parents:
            child = parents[child]
            if child == process:
                return True
        return False

    return [actor for actor in actors if is_below(actor)]


def assert_same_vectors(out: Path, expected: dict[str, np.ndarray]) -> None:
    table = pq.read_table(str(out))
    ids = table["docid"].to_pylist()
    assert sorted(ids) == sorted(expected)
    vectors = np.array(table["vector"].to_pylist(), dtype=np.float32)
    assert np.abs(vectors - np.stack([expected[key] for key in ids])).max() < 1e-5


@pytest.mark.slow
def test_an_actor_that_is_killed_changes_nothing(cluster, model, corpus, expected, tmp_path):
    out = tmp_path / "out"
    written_before: list[int] = []

    def kill() -> None:
        wait_for_shards(out, 3)
        os.kill(actors_below(os.getpid())[0], signal.SIGKILL)
        written_before.append(len(shards(out)))

    killer = threading.Thread(target=kill)
    killer.start()
    result = encode_on_ray(model, corpus, str(out), config=CONFIG)
    killer.join()

    assert 0 < written_before[0] < result.shards
    assert (result.texts, result.dimension, result.found) == (TEXTS, 32, 0)
    assert_same_vectors(out, expected)
    assert len(list(out.iterdir())) == result.shards + 1

    again = encode_on_ray(model, corpus, str(out), config=ONE_ACTOR)
    assert (again.texts, again.found) == (TEXTS, result.shards)
    with pytest.raises(ValueError, match="role was 'document', is 'query'"):
        encode_on_ray(
            model, corpus, str(out), config=ClusterConfig(role="query", shard_bytes=4_000)
        )


@pytest.mark.slow
def test_a_killed_driver_is_gone_on_from(cluster, model, corpus, expected, tmp_path):
    out = tmp_path / "out"
    driver = fresh.Fresh(["-c", DRIVER, model, corpus, out])
    try:
        wait_for_shards(out, 3)
    finally:
        actors = actors_below(driver.pid)
        driver.kill()
    # the cluster that it had started ends with it
    limit = time.monotonic() + 200
    while any(Path(f"/proc/{actor}").exists() for actor in actors):
        assert time.monotonic() < limit
        time.sleep(0.1)
    before = {path: path.stat().st_mtime_ns for path in shards(out)}

    result = encode_on_ray(model, corpus, str(out), config=ONE_ACTOR)

    assert actors and result.found == len(before) < result.shards
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_same_vectors(out, expected)


def test_a_bad_line_stops_the_run_with_one_plain_error(cluster, model, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"_id": "a", "text": "w1"}\n\n{"_id": "b", "text": 3}\n')
    with pytest.raises(ValueError) as caught:
        encode_on_ray(model, str(path), str(tmp_path / "out"), config=ClusterConfig(actors=1))
    assert str(caught.value).startswith(f"{path} line 3: 'b' has no text (found int)")
    assert "\n" not in str(caught.value)
    assert not shards(tmp_path / "out")


def test_what_cannot_be_encoded_is_refused_before_anything_starts(model, corpus, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "empty.jsonl").write_text("")
    for arguments, kind, error in [
        ((model, str(tmp_path / "absent.jsonl")), FileNotFoundError, "nothing is there"),
        ((tmp_path / "absent", corpus), FileNotFoundError, "absent is no model folder"),
        ((model, str(tmp_path / "empty.jsonl")), ValueError, "is empty"),
    ]:
        with pytest.raises(kind, match=error):
            encode_on_ray(*arguments, str(out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"role": "title"}, "role='title' must be document or query"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"actors": 0}, "actors=0 must be at least 1, or None"),
        ({"gpus_per_actor": -1}, "gpus_per_actor=-1 must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(options, error):
    with pytest.raises(ValueError, match=error):
        ClusterConfig(**options)


def test_without_ray_the_extra_is_named(model, corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "effir-integrations\[ray\]"'):
        encode_on_ray(model, corpus, str(tmp_path / "out"))
