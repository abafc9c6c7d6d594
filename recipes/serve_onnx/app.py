"""Serve an ONNX folder as OpenAI's `/v1/embeddings`, without torch.

    python recipes/serve_onnx/app.py FOLDER --port 8000

`model` in a request is the folder's name, which takes texts as they are, or that name with `:query`
or `:document` behind it, which puts the model's own prompt in front. Texts longer than the model
takes are cut, as everywhere. Requests that arrive together are encoded together.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from effir_integrations.onnx import OnnxEncoder

try:
    from .batching import Batcher, Busy
except ImportError:  # run as a script
    from batching import Batcher, Busy  # type: ignore[no-redef]

ROLES = ("", "query", "document")
MOST_BYTES = 4_000_000
"""Of a request's body."""
MOST_TEXTS = 2048
"""Of a request, as at OpenAI."""
RETRY_SECONDS = 1


class Refused(Exception):  # noqa: N818 - the client's fault, and an answer to it
    """A request that gets no vectors."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


class Asked(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="ignore", strict=True)

    input: str | list[Any]
    model: str
    encoding_format: str = "float"
    dimensions: int | None = None


def create_app(
    folder: str | Path,
    *,
    name: str | None = None,
    threads: int | None = None,
    most_waiting: int = 1024,
    most_at_once: int = 256,
) -> FastAPI:
    """Return the application.

    Args:
        folder: What `effir convert --to onnx` wrote.
        name: Of the model in requests. Default: that of the folder.
        threads: Of the encoder. Default: all cores.
        most_waiting: Texts that may wait before requests are refused with 503.
        most_at_once: Texts of different requests that are encoded together.
    """
    encoder = OnnxEncoder(folder, threads=threads)
    name = name or Path(folder).resolve().name
    models = {name + f":{role}" * bool(role): role for role in ROLES}
    batcher = Batcher(
        lambda texts, role: _encode(encoder, texts, role),
        most_waiting=most_waiting,
        most_at_once=most_at_once,
    )

    @asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(batcher.run())
        yield
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    app = FastAPI(title="Embeddings", lifespan=working)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def listed() -> dict[str, Any]:
        rows = [{"id": each, "object": "model", "owned_by": "effir"} for each in models]
        return {"object": "list", "data": rows}

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> JSONResponse:
        asked = _read(await _body(request))
        if asked.model not in models:
            known = ", ".join(models)
            raise Refused(404, f"the model {asked.model!r} is not served; choose {known}", "model")
        texts = _texts(asked)
        dimensions = _dimensions(asked, encoder.dimension)
        vectors = await batcher.vectors(texts, models[asked.model])
        return JSONResponse(_answer(asked, _cut(vectors, dimensions), _count(encoder, texts)))

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return _error(error.status, error.message, error.param)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> JSONResponse:
        answer = _error(503, f"{error}; try again", None)
        answer.headers["Retry-After"] = str(RETRY_SECONDS)
        return answer

    return app


def _encode(encoder: OnnxEncoder, texts: Sequence[str], role: str) -> np.ndarray:
    calls: dict[str, Callable[..., Any]] = {
        "": partial(encoder.encode, prompt=""),
        "query": encoder.encode_query,
        "document": encoder.encode_document,
    }
    return np.asarray(calls[role](list(texts)), dtype=np.float32)


async def _body(request: Request) -> bytes:
    """Read a body that is not too long, whatever its header says."""
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > MOST_BYTES:
            raise Refused(413, f"the request is longer than {MOST_BYTES:,} bytes; send fewer texts")
    return bytes(read)


def _read(body: bytes) -> Asked:
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise Refused(400, f"{place}: {first['msg']}", place) from error


def _texts(asked: Asked) -> list[str]:
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if any(isinstance(text, (int, list)) for text in texts):
        raise Refused(
            400,
            "input holds token ids, and they are of another tokenizer; send text (in LangChain "
            "check_embedding_ctx_length=False)",
            "input",
        )
    if not all(isinstance(text, str) for text in texts):
        raise Refused(400, "input must be a text or a list of texts", "input")
    if not texts or not all(text.strip() for text in texts):
        raise Refused(400, "input is empty, or holds a text that is; leave it out", "input")
    if len(texts) > MOST_TEXTS:
        raise Refused(400, f"input has {len(texts)} texts; send at most {MOST_TEXTS}", "input")
    return list(texts)


def _dimensions(asked: Asked, most: int) -> int:
    if asked.encoding_format not in ("float", "base64"):
        raise Refused(400, "encoding_format must be float or base64", "encoding_format")
    if asked.dimensions is not None and not 1 <= asked.dimensions <= most:
        raise Refused(400, f"dimensions must lie from 1 to {most}", "dimensions")
    return asked.dimensions or most


def _cut(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """Return the first so many dimensions, at unit length where the whole vectors are."""
    if dimensions == vectors.shape[1]:
        return vectors
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    cut = vectors[:, :dimensions]
    return cut * length / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


def _count(encoder: OnnxEncoder, texts: Sequence[str]) -> int:
    return sum(map(len, encoder.token_ids(texts)))


def _answer(asked: Asked, vectors: np.ndarray, tokens: int) -> dict[str, Any]:
    def written(vector: np.ndarray) -> Any:
        if asked.encoding_format == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        return vector.tolist()

    rows = [
        {"object": "embedding", "index": index, "embedding": written(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": rows, "model": asked.model, "usage": usage}


def _error(status: int, message: str, param: str | None) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    content = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": content}, status_code=status)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until it is stopped."""
    import uvicorn

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what effir convert --to onnx wrote")
    parser.add_argument("--name", help="of the model in requests (default: that of the folder)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, help="of the encoder (default: all cores)")
    parser.add_argument("--most-waiting", type=int, default=1024, help="texts, before 503")
    options = parser.parse_args(arguments)
    app = create_app(
        options.folder,
        name=options.name,
        threads=options.threads,
        most_waiting=options.most_waiting,
    )
    uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
