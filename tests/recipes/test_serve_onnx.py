"""The server of embeddings answers stock clients, refuses as OpenAI does, and mixes nothing up."""

from __future__ import annotations

import asyncio
import base64
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from converted import write_encoder
from scripts import RECIPES

from effir_integrations import convert

pytest.importorskip("onnxscript")
openai = pytest.importorskip("openai")
aiohttp = pytest.importorskip("aiohttp")
uvicorn = pytest.importorskip("uvicorn")
sys.path.insert(0, str(RECIPES))

from serve_onnx import app as served  # noqa: E402
from serve_onnx.batching import Batcher, Busy  # noqa: E402

from effir_integrations.onnx import OnnxEncoder  # noqa: E402

TEXTS = ["w1 w2 w3", "w4 " * 60, "w9 w7", "w8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serve")
    convert(write_encoder("bert", place), place / "tiny", "onnx")
    return place / "tiny"


@pytest.fixture(scope="module")
def encoder(folder: Path) -> OnnxEncoder:
    return OnnxEncoder(folder, threads=1)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where a server of this process listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    app = served.create_app(folder, threads=1, most_waiting=64)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_the_stock_client_gets_the_vectors_of_the_folder(client, encoder, encoding):
    made = client.embeddings.create(model="tiny", input=TEXTS, encoding_format=encoding)
    vectors = [row.embedding for row in made.data]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(x), "<f4") for x in vectors]
    assert [row.index for row in made.data] == [0, 1, 2, 3]
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS, prompt=""), atol=1e-6)
    assert made.usage.prompt_tokens == sum(map(len, encoder.token_ids(TEXTS)))


def test_prompts_are_put_in_front_where_a_role_is_named(client, encoder):
    for role in ("query", "document"):
        made = client.embeddings.create(model=f"tiny:{role}", input=TEXTS[0])
        expected = getattr(encoder, f"encode_{role}")(TEXTS[0])
        np.testing.assert_allclose(made.data[0].embedding, expected, atol=1e-6)
    assert {each.id for each in client.models.list()} == {"tiny", "tiny:query", "tiny:document"}


def test_fewer_dimensions_are_of_unit_length(client, encoder):
    made = client.embeddings.create(model="tiny", input=TEXTS[0], dimensions=8)
    whole = encoder.encode(TEXTS[0], prompt="")[:8]
    np.testing.assert_allclose(made.data[0].embedding, whole / np.linalg.norm(whole), atol=1e-6)


def test_llama_index_and_langchain_take_it_for_openai(address, encoder):
    llama_index = pytest.importorskip("llama_index.embeddings.openai")
    langchain = pytest.importorskip("langchain_openai")
    settings = {"api_key": "none", "model": "tiny"}
    ours = llama_index.OpenAIEmbedding(
        model_name="tiny", api_base=f"{address}/v1", api_key="none", embed_batch_size=2
    )
    theirs = langchain.OpenAIEmbeddings(
        base_url=f"{address}/v1", check_embedding_ctx_length=False, **settings
    )
    expected = encoder.encode(TEXTS, prompt="")
    np.testing.assert_allclose(ours.get_text_embedding_batch(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(theirs.embed_documents(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": []}, 400, "input is empty"),
        ({"input": ""}, 400, "input is empty"),
        ({"input": ["w1", " "]}, 400, "holds a text that is"),
        ({"input": [1, 2]}, 400, "check_embedding_ctx_length=False"),
        ({"input": [[1, 2]]}, 400, "token ids"),
        ({"input": [None]}, 400, "a text or a list of texts"),
        ({"input": {"text": "w1"}}, 400, "input"),
        ({"input": "w1", "model": "gpt-5"}, 404, "choose tiny, tiny:query, tiny:document"),
        ({"input": "w1", "dimensions": 0}, 400, "dimensions must lie from 1 to 32"),
        ({"input": "w1", "dimensions": 33}, 400, "dimensions must lie from 1 to 32"),
        ({"input": "w1", "encoding_format": "hex"}, 400, "float or base64"),
        ({"input": ["w1"] * 2049}, 400, "send at most 2048"),
        ({"input": "w" * 10_000_000}, 413, "4,000,000 bytes"),
    ],
)
def test_bad_requests_are_told_what_to_do(address, body, status, words):
    answer = httpx.post(f"{address}/v1/embeddings", json={"model": "tiny", **body})
    error = answer.json()["error"]
    assert answer.status_code == status and words in error["message"]
    assert error["type"] == "invalid_request_error"


def test_what_is_no_json_is_refused(address):
    answer = httpx.post(f"{address}/v1/embeddings", content=b"{oh")
    assert answer.status_code == 400 and "Invalid JSON" in answer.json()["error"]["message"]


def test_many_at_once_lose_and_mix_nothing_and_the_rest_is_told_to_wait(address, encoder):
    """1,000 requests against room for 64 texts."""
    texts = [f"w{number % 50} w{number % 31} w{number % 17}" for number in range(1000)]
    expected = encoder.encode(texts, prompt="")

    async def ask() -> list[tuple[int, str | None, dict[str, Any]]]:
        async def one(text: str) -> tuple[int, str | None, dict[str, Any]]:
            body = {"model": "tiny", "input": text}
            async with session.post(f"{address}/v1/embeddings", json=body) as answer:
                return answer.status, answer.headers.get("Retry-After"), await answer.json()

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*map(one, texts))

    answers = asyncio.run(ask())
    assert {200, 503} >= {status for status, _, _ in answers} >= {200}
    for place, (status, wait, content) in enumerate(answers):
        if status == 200:
            (row,) = content["data"]
            np.testing.assert_allclose(row["embedding"], expected[place], atol=1e-6)
        else:
            assert wait == "1" and "try again" in content["error"]["message"]


async def test_requests_that_wait_are_encoded_together_by_role_and_the_queue_is_bounded():
    calls: list[tuple[str, int]] = []

    def encode(texts, role):
        calls.append((role, len(texts)))
        time.sleep(0.05)
        return np.array([[float(text)] for text in texts])

    batcher = Batcher(encode, most_waiting=6, most_at_once=4)
    work = asyncio.create_task(batcher.run())
    first = asyncio.create_task(batcher.vectors(["0"], "query"))
    await asyncio.sleep(0.02)
    others = [
        asyncio.create_task(batcher.vectors(texts, role))
        for texts, role in ((["1", "2"], "query"), (["3"], "document"), (["4", "5"], "query"))
    ]
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="5 texts are waiting, of 6 that may"):
        await batcher.vectors(["6", "7"], "query")
    found = [await task for task in (first, *others)]
    assert [vectors[:, 0].tolist() for vectors in found] == [[0], [1, 2], [3], [4, 5]]
    assert calls == [("query", 1), ("query", 4), ("document", 1)]
    work.cancel()


async def test_a_call_that_fails_is_told_to_those_it_was_for_alone():
    def encode(texts, role):
        if "bad" in texts:
            raise RuntimeError("out of memory")
        return np.zeros((len(texts), 2))

    batcher = Batcher(encode)
    work = asyncio.create_task(batcher.run())
    with pytest.raises(RuntimeError, match="out of memory"):
        await batcher.vectors(["bad"], "query")
    assert (await batcher.vectors(["good"], "query")).shape == (1, 2)
    work.cancel()


def test_the_server_runs_as_a_script_and_imports_no_torch():
    script = RECIPES / "serve_onnx" / "app.py"
    line = [sys.executable, "-X", "importtime", script, "--help"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0 and "OpenAI's `/v1/embeddings`" in done.stdout
    loaded = {row.rpartition("|")[2].strip().partition(".")[0] for row in done.stderr.splitlines()}
    assert "uvicorn" in loaded and not {"torch", "transformers"} & loaded


@pytest.mark.slow
def test_two_hundred_clients_for_half_a_minute(address, encoder, record_property):
    texts = [f"w{number % 50} w{number % 31} w{number % 17}" for number in range(200)]
    expected = encoder.encode(texts, prompt="")
    end = time.monotonic() + 30

    async def ask(session: aiohttp.ClientSession, place: int) -> tuple[int, int]:
        answered = refused = 0
        body = {"model": "tiny", "input": texts[place]}
        while time.monotonic() < end:
            async with session.post(f"{address}/v1/embeddings", json=body) as answer:
                content = await answer.json()
            if answer.status == 503:
                refused += 1
                await asyncio.sleep(float(answer.headers["Retry-After"]))
                continue
            (row,) = content["data"]
            np.testing.assert_allclose(row["embedding"], expected[place], atol=1e-6)
            answered += 1
        return answered, refused

    async def run() -> list[tuple[int, int]]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(ask(session, place) for place in range(200)))

    counts = asyncio.run(run())
    assert all(answered for answered, _ in counts), counts
    record_property("answered", sum(answered for answered, _ in counts))
    record_property("told to wait", sum(refused for _, refused in counts))
