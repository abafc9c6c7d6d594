"""Every adapter takes a folder of two encoders, and asks the right one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pruned_folder import PROMPTS, plan_for
from tiny import save_bare

from effir_integrations import export, load, pair
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.data.beir import RetrievalData

TEXTS = ["w1 w2 w3", "w4 w5", "w9 w7 w8 w6"]
Embed = Callable[[list[str]], Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A pair, then its encoder of queries and that of documents, each alone."""
    place = tmp_path_factory.mktemp("pair")
    full = load(save_bare("qwen3", place / "bare"), prompts=PROMPTS, device="cpu")
    full.save_pretrained(str(place / "full"), create_model_card=False)
    export(full, plan_for(full), place / "small")
    made = pair(place / "small", place / "full", place / "out", apart=True)
    return made.out, place / "small", place / "full", made.queries, made.documents


def langchain(folder) -> tuple[Embed, Embed]:
    module = pytest.importorskip("effir_integrations.adapters.langchain")
    made = module.EffirEmbeddings(folder, precision="fp32")
    return lambda texts: [made.embed_query(text) for text in texts], made.embed_documents


def llama_index(folder) -> tuple[Embed, Embed]:
    module = pytest.importorskip("effir_integrations.adapters.llama_index")
    made = module.EffirEmbedding(model_name=str(folder), precision="fp32")
    return (
        lambda texts: [made.get_query_embedding(text) for text in texts],
        made.get_text_embedding_batch,
    )


def haystack(folder) -> tuple[Embed, Embed]:
    module = pytest.importorskip("effir_integrations.adapters.haystack")
    dataclasses = pytest.importorskip("haystack.dataclasses")
    queries = module.EffirTextEmbedder(folder, precision="fp32")
    documents = module.EffirDocumentEmbedder(folder, precision="fp32")

    def embed(texts: list[str]) -> Any:
        given = [dataclasses.Document(content=text) for text in texts]
        return [x.embedding for x in documents.run(documents=given)["documents"]]

    return lambda texts: [queries.run(text=text)["embedding"] for text in texts], embed


def pyserini(folder) -> tuple[Embed, Embed]:
    module = pytest.importorskip("effir_integrations.adapters.pyserini.encoders")
    queries = module.EffirQueryEncoder(str(folder))
    documents = module.EffirDocumentEncoder(str(folder))
    return lambda texts: [queries.encode(text) for text in texts], documents.encode


def mteb(folder) -> tuple[Embed, Embed]:
    module = pytest.importorskip("effir_integrations.adapters.mteb")
    types = pytest.importorskip("mteb.types")
    made = module.mteb_model(folder, precision="fp32")
    assert made.mteb_model_meta.embed_dim == 32
    data = RetrievalData(
        name="tiny", split="test", documents={"d": "w1"}, queries={"q": "w2"}, qrels={"q": {"d": 1}}
    )
    task = module.beir_task(data).metadata

    def embed(kind: Any) -> Embed:
        where = {"task_metadata": task, "hf_split": "test", "hf_subset": "default"}
        return lambda texts: made.encode([{"text": texts}], prompt_type=kind, **where)

    return embed(types.PromptType.query), embed(types.PromptType.document)


@pytest.mark.parametrize("adapter", [langchain, llama_index, haystack, pyserini, mteb])
def test_queries_go_to_the_small_one_and_documents_to_the_full(adapter, folders, monkeypatch):
    monkeypatch.setenv("EFFIR_PRECISION", "fp32")
    both, small, full, queries, documents = folders
    ask, embed = adapter(both)
    expected = load(small, device="cpu").encode_query(TEXTS)
    stored = load(full, device="cpu").encode_document(TEXTS)
    np.testing.assert_allclose(np.array(ask(TEXTS)), expected, atol=2e-6)
    np.testing.assert_allclose(np.array(embed(TEXTS)), stored, atol=2e-6)
    np.testing.assert_allclose(np.array(adapter(queries)[0](TEXTS)), expected, atol=2e-6)
    np.testing.assert_allclose(np.array(adapter(documents)[1](TEXTS)), stored, atol=2e-6)
    assert np.abs(expected - load(full, device="cpu").encode_query(TEXTS)).max() > 1e-3


def test_a_pair_searches_the_index_of_its_document_encoder_alone(folders, tmp_path):
    pytest.importorskip("pyserini")
    from effir_integrations.adapters.pyserini.encoders import EffirQueryEncoder
    from effir_integrations.adapters.pyserini.record import IndexRecord

    both, small, full, *_ = folders
    IndexRecord.of(LazyEncoder(full), 3).save(tmp_path)
    EffirQueryEncoder(str(both)).check_index(tmp_path)
    with pytest.raises(ValueError, match=r"encoded by .*full .* the queries are for .*small"):
        EffirQueryEncoder(str(small)).check_index(tmp_path)
    IndexRecord.of(LazyEncoder(small), 3).save(tmp_path)
    with pytest.raises(ValueError, match=r"encoded by .*small .* the queries are for .*out"):
        EffirQueryEncoder(str(both)).check_index(tmp_path)
