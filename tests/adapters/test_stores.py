"""A store says whose documents it holds: queries of its space search it, others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pruned_folder import PROMPTS, plan_for
from tiny import save_bare
from verbs import effir_json

from effir_integrations import encode_to_file, export, finetune, load, pair
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.encoder.store_record import StoreRecord
from effir_integrations.training.config import FinetuneConfig

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A full model, what was made of it, and one that was not, by what each is."""
    place = tmp_path_factory.mktemp("stores")
    made = {"full": place / "full", "small": place / "small", "pair": place / "pair"}
    bare = load(save_bare("qwen3", place / "bare"), prompts=PROMPTS, device="cpu")
    bare.save_pretrained(str(made["full"]), create_model_card=False)
    export(made["full"], plan_for(bare), made["small"])
    pair(made["small"], made["full"], made["pair"], apart=True)
    made["queries"], made["documents"] = place / "pair-queries", place / "pair-documents"
    other = load(save_bare("qwen3", place / "rare", seed=1), prompts=PROMPTS, device="cpu")
    other.save_pretrained(str(place / "other"), create_model_card=False)
    return {**made, "other": place / "other"}


def langchain() -> tuple[Make, Make]:
    module = pytest.importorskip("effir_integrations.adapters.langchain")

    def make(folder, **more):
        return module.EffirEmbeddings(folder, precision="fp32", **more)

    return make, make


def llama_index() -> tuple[Make, Make]:
    module = pytest.importorskip("effir_integrations.adapters.llama_index")

    def make(folder, **more):
        return module.EffirEmbedding(folder, precision="fp32", **more)

    return make, make


def haystack() -> tuple[Make, Make]:
    module = pytest.importorskip("effir_integrations.adapters.haystack")

    def queries(folder, **more):
        return module.EffirTextEmbedder(folder, precision="fp32", **more)

    def documents(folder, **more):
        return module.EffirDocumentEmbedder(folder, precision="fp32", **more)

    return queries, documents


ADAPTERS = pytest.mark.parametrize("adapter", [langchain, llama_index, haystack])
WAY_OUT = r"search with \S+ or a query encoder that effir pair made for it, or encode the doc"


@ADAPTERS
def test_queries_of_its_space_search_a_store_of_the_full_model(adapter, folders, tmp_path):
    queries, documents = adapter()
    documents(folders["full"]).claim_store(tmp_path / "store")
    assert (tmp_path / "store" / "effir.json").is_file()
    for name in ("full", "pair", "queries", "documents", "small"):
        queries(folders[name]).check_store(tmp_path / "store")


@ADAPTERS
def test_queries_of_another_space_are_refused_with_both_names(adapter, folders, tmp_path):
    queries, documents = adapter()
    documents(folders["full"]).claim_store(tmp_path)
    with pytest.raises(ValueError, match=rf"encoded by \S+full, and \S+other is.*{WAY_OUT}"):
        queries(folders["other"]).check_store(tmp_path)


@ADAPTERS
def test_a_store_of_an_unlike_model_is_refused_to_a_pair_as_well(adapter, folders, tmp_path):
    queries, documents = adapter()
    documents(folders["other"]).claim_store(tmp_path / "other")
    documents(folders["small"]).claim_store(tmp_path / "small")
    for name in ("pair", "queries"):
        made = queries(folders[name])
        with pytest.raises(ValueError, match=rf"encoded by \S+other, and \S+{name} is.*{WAY_OUT}"):
            made.check_store(tmp_path / "other")
        # what a pair's small encoder makes of documents is no document of the pair
        with pytest.raises(ValueError, match=r"encoded by \S+small, and"):
            made.check_store(tmp_path / "small")


@ADAPTERS
def test_documents_of_two_models_are_not_mixed(adapter, folders, tmp_path):
    _, documents = adapter()
    for name in ("full", "pair", "documents", "full"):
        documents(folders[name]).claim_store(tmp_path)
    for name in ("small", "queries", "other"):
        message = rf"encoded by \S+full, and those that \S+{name} encodes .*effir pair.*new store"
        with pytest.raises(ValueError, match=message):
            documents(folders[name]).claim_store(tmp_path)
    for settings, message in (
        ({"max_length": 9}, "max_length 32, not 9"),
        ({"document_prompt": "w1 "}, "prompt 'w55 ', not 'w1 '"),
        ({"truncate_dim": 16}, "truncate_dim 32, not 16"),
    ):
        with pytest.raises(ValueError, match=message):
            documents(folders["full"], **settings).claim_store(tmp_path)


@ADAPTERS
def test_other_dimensions_and_stores_that_say_nothing_are_refused(adapter, folders, tmp_path):
    queries, documents = adapter()
    with pytest.raises(FileNotFoundError, match="check_space can tell by some of its vectors"):
        queries(folders["full"]).check_store(tmp_path)
    documents(folders["full"]).claim_store(tmp_path / "store.faiss")
    assert (tmp_path / "store.faiss.effir").is_file()
    with pytest.raises(ValueError, match=r"of 32 dimensions of \S+full, and \S+pair gives 16"):
        queries(folders["pair"], truncate_dim=16).check_store(tmp_path / "store.faiss")
    (tmp_path / "effir.json").write_text('{"format": "mine"}')
    with pytest.raises(ValueError, match="has the format 'mine'"):
        queries(folders["full"]).check_store(tmp_path)


@ADAPTERS
def test_a_file_of_vectors_is_a_store(adapter, folders, tmp_path):
    queries, _ = adapter()
    for maker in ("pair", "documents", "full"):
        encode_to_file(folders[maker], ["w1 w2", "w3"], tmp_path / "vectors.npy", force=True)
        for name in ("full", "pair", "queries"):
            queries(folders[name]).check_store(tmp_path / "vectors.npy")
    with pytest.raises(ValueError, match=r"vectors\.npy holds documents encoded by \S+full, and"):
        queries(folders["other"]).check_store(tmp_path / "vectors.npy")


def test_the_command_names_the_model_of_a_file_of_vectors(folders, make_beir, tmp_path):
    for role, maker in (("document", "full"), ("query", "pair")):
        out = tmp_path / f"{role}.jsonl"
        effir_json("encode", folders["pair"], "--data", make_beir(), "--role", role, "--out", out)
        record = StoreRecord.load(out)
        assert (record.model, record.dimension) == (str(folders[maker]), 32)
        assert record.fingerprint == LazyEncoder(folders[maker]).fingerprint
        assert record.settings["prompt"] == PROMPTS[role]


@ADAPTERS
def test_the_fingerprint_of_the_full_model_is_that_of_its_space(adapter, folders):
    queries, documents = adapter()
    expected = documents(folders["full"]).fingerprint
    for name in ("full", "pair", "documents", "queries", "small"):
        queries(folders[name], fingerprint=expected)
    for name in ("full", "pair", "documents"):
        documents(folders[name], fingerprint=expected)
    with pytest.raises(ValueError, match=r"\S+other is now .*, but .* a query encoder that effir"):
        queries(folders["other"], fingerprint=expected)
    own = documents(folders["small"]).fingerprint
    with pytest.raises(ValueError, match=rf"settings are of {own}, whose vectors do not fit"):
        queries(folders["pair"], fingerprint=own)


@pytest.mark.parametrize("adapter", [langchain, llama_index])
def test_an_encoder_of_queries_alone_embeds_no_documents(adapter, folders):
    made, _ = adapter()
    expected = made(folders["full"]).fingerprint
    message = r"queries is to search documents of another model .* a pair that encodes them by it"

    def embed(name):
        embedding = made(folders[name], fingerprint=expected)
        kind = "get_query_embedding" if adapter is llama_index else "embed_query"
        assert len(getattr(embedding, kind)("w1")) == 32
        kind = "get_text_embedding_batch" if adapter is llama_index else "embed_documents"
        return getattr(embedding, kind)(["w1"])

    assert len(embed("pair")) == 1
    with pytest.raises(ValueError, match=message):
        embed("queries")


def test_haystack_s_embedder_of_documents_takes_no_encoder_of_queries_alone(folders):
    _, documents = haystack()
    expected = documents(folders["full"]).fingerprint
    for name in ("queries", "small", "other"):
        with pytest.raises(ValueError, match=rf"the model of \S+{name} is now"):
            documents(folders[name], fingerprint=expected)


def test_pyserini_searches_the_full_model_s_index_with_its_space(folders, tmp_path):
    pytest.importorskip("pyserini")
    from effir_integrations.adapters.pyserini.encoders import EffirQueryEncoder
    from effir_integrations.adapters.pyserini.record import IndexRecord

    for maker in ("full", "pair", "documents"):
        IndexRecord.of(LazyEncoder(folders[maker]), 3).save(tmp_path)
        for name in ("full", "pair", "queries", "documents", "small"):
            EffirQueryEncoder(str(folders[name])).check_index(tmp_path)
        with pytest.raises(ValueError, match=r"encoded by \S+full .* for \S+other, .* effir pair"):
            EffirQueryEncoder(str(folders["other"])).check_index(tmp_path)


def test_loaded_encoders_are_known_by_their_weights(folders):
    full, both = (LazyEncoder(load(folders[name], device="cpu")) for name in ("full", "pair"))
    assert full.fingerprint in both.searches and both.documents.files == full.fingerprint
    assert LazyEncoder(load(folders["queries"], device="cpu")).searches.isdisjoint(full.searches)


def test_fine_tuning_leaves_the_space(folders, tmp_path):
    rows = [{"query": f"w{n}", "pos": [f"w{n} w9"], "neg": ["w5"]} for n in range(4)]
    config = FinetuneConfig(steps=1, batch_size=2)
    finetune(folders["small"], rows, config, tmp_path / "tuned", negatives=1)
    made, _ = langchain()
    made(folders["full"]).claim_store(tmp_path / "store")
    with pytest.raises(ValueError, match=r"encoded by \S+full, and \S+tuned is not known"):
        made(tmp_path / "tuned").check_store(tmp_path / "store")


def test_a_persisted_llama_index_is_opened_by_queries_of_its_space(folders, tmp_path):
    core = pytest.importorskip("llama_index.core")
    make, _ = llama_index()
    full, queries = make(folders["full"]), make(folders["queries"])
    nodes = [core.Document(text=f"w{n} w{n + 9}", id_=str(n)) for n in range(5)]
    full.claim_store(tmp_path)
    index = core.VectorStoreIndex.from_documents(nodes, embed_model=full)
    index.storage_context.persist(str(tmp_path))
    queries.check_store(tmp_path)
    context = core.StorageContext.from_defaults(persist_dir=str(tmp_path))
    again = core.load_index_from_storage(context, embed_model=queries)
    found = again.as_retriever(similarity_top_k=5).retrieve("w3 w12")
    asked = load(folders["small"], device="cpu").encode_query("w3 w12")
    texts = [hit.node.get_content("embed") for hit in found]
    stored = load(folders["full"], device="cpu").encode_document(texts)
    assert [hit.score for hit in found] == pytest.approx((stored @ asked).tolist(), abs=1e-5)
    with pytest.raises(ValueError, match=rf"encoded by \S+full, and \S+other is.*{WAY_OUT}"):
        make(folders["other"]).check_store(tmp_path)


def test_a_store_of_langchain_in_a_file_is_opened_by_queries_of_its_space(folders, tmp_path):
    stores = pytest.importorskip("langchain_core.vectorstores")
    make, _ = langchain()
    full, queries, place = make(folders["full"]), make(folders["queries"]), tmp_path / "store.json"
    full.claim_store(place)
    store = stores.InMemoryVectorStore(full)
    store.add_texts(["w1 w2", "w3 w4", "w5"])
    store.dump(str(place))
    queries.check_store(place)
    again = stores.InMemoryVectorStore.load(str(place), queries)
    assert len(again.similarity_search("w1 w2", k=2)) == 2
    with pytest.raises(ValueError, match=rf"encoded by \S+full, and \S+other is.*{WAY_OUT}"):
        make(folders["other"]).check_store(place)
