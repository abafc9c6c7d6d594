from __future__ import annotations

import faiss
import numpy as np
import pandas as pd
import pytest
from tiny import save_bare
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

pytest.importorskip("llama_index.core")

from llama_index.core import Document
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.faiss import FaissVectorStore

from effir_integrations import load
from effir_integrations.adapters.llama_index import EffirEmbedding
from effir_integrations.data.calibration import load_calibration
from effir_integrations.progress import Progress

PROMPT = "Instruct: find what answers.\nDocument: "


@pytest.fixture(scope="module")
def texts():
    return list(load_calibration(limit=60).texts)


@pytest.fixture(scope="module")
def byte_level(texts):
    """A trained tokenizer, in which a word has other tokens without the space before it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture(scope="module")
def real_texts(byte_level, tmp_path_factory):
    """A tiny model that reads 64 tokens of real text, with a long prompt before documents."""
    base = tmp_path_factory.mktemp("indexing")
    bare = save_bare("qwen3", base / "bare", vocab_size=2000)
    byte_level.save_pretrained(bare)
    load(bare, max_length=64, prompts={"document": PROMPT}).save(str(base / "model"))
    return EffirEmbedding(base / "model")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return EffirEmbedding(save_bare("bert", tmp_path_factory.mktemp("tiny") / "model"))


METADATA = {"title": "A title", "author": "N. N."}


@pytest.mark.parametrize("metadata", [{}, METADATA], ids=["plain", "metadata"])
def test_nodes_of_the_splitter_are_read_whole(real_texts, texts, metadata):
    documents = [Document(text=text, metadata=metadata) for text in texts]
    nodes = real_texts.splitter().get_nodes_from_documents(documents)
    contents = [node.get_content(metadata_mode="embed") for node in nodes]
    assert len(nodes) > 5 * len(texts)
    assert real_texts._encoder.truncation(contents, prompt=PROMPT) == (0, 0.0)


def test_nodes_of_the_default_splitter_are_not(real_texts, texts):
    nodes = SentenceSplitter().get_nodes_from_documents([Document(text="\n\n".join(texts))])
    count, share = real_texts._encoder.truncation([node.text for node in nodes], prompt=PROMPT)
    assert count == len(nodes) and share > 0.9


def test_the_splitter_of_the_real_model_loses_nothing(minilm, texts):
    embedding = EffirEmbedding(minilm)
    splitter = embedding.splitter()
    assert 240 <= splitter.chunk_size <= 254
    chunks = splitter.split_text("\n\n".join(texts))
    assert embedding._encoder.truncation(chunks) == (0, 0.0)


def test_the_splitter_takes_the_options_of_llama_index(real_texts):
    splitter = real_texts.splitter(chunk_size=20, chunk_overlap=3, paragraph_separator="\n")
    assert type(splitter) is SentenceSplitter
    assert (splitter.chunk_size, splitter.chunk_overlap) == (20, 3)
    assert splitter.paragraph_separator == "\n"


def test_chunks_overlap_by_a_fifth_and_are_no_longer_than_llama_index_makes_them(tiny):
    # BOS and the margin leave 23 of 32 tokens
    assert (tiny.splitter().chunk_size, tiny.splitter().chunk_overlap) == (23, 4)
    long = EffirEmbedding.from_model(tiny._encoder.encoder, max_length=20)
    assert long.splitter().chunk_size == 11


def test_chunks_that_the_model_cannot_read_are_refused(real_texts):
    with pytest.raises(
        ValueError, match=r"chunk_size=64, but of its 64 tokens .* left for a chunk"
    ):
        real_texts.splitter(chunk_size=64)


def test_a_prompt_that_fills_the_model_is_refused(tiny):
    full = EffirEmbedding.from_model(tiny._encoder.encoder, document_prompt="w1 " * 40)
    with pytest.raises(ValueError, match="has 0 left for a chunk"):
        full.splitter()


def test_a_flat_index_of_inner_products_and_the_store_in_memory_are_fine(tiny):
    tiny.check_vector_store(FaissVectorStore(faiss.IndexFlatIP(32)))
    tiny.check_vector_store(FaissVectorStore(faiss.IndexIDMap(faiss.IndexFlatIP(32))))
    tiny.check_vector_store(SimpleVectorStore())


@pytest.mark.parametrize("make", [faiss.IndexFlatL2, lambda d: faiss.IndexHNSWFlat(d, 8)])
def test_distances_are_refused_as_scores(tiny, make):
    with pytest.raises(ValueError, match=r"metric L2.*use faiss.IndexFlatIP\(embedding.dimension"):
        tiny.check_vector_store(FaissVectorStore(make(32)))


def test_stores_of_another_dimension_are_refused(tiny):
    with pytest.raises(ValueError, match=r"holds vectors of 31 dimensions.*have 32.*index again"):
        tiny.check_vector_store(FaissVectorStore(faiss.IndexFlatIP(31)))
    store = SimpleVectorStore()
    store.data.embedding_dict["a"] = [0.0] * 8
    with pytest.raises(ValueError, match="holds vectors of 8 dimensions"):
        tiny.check_vector_store(store)


def test_a_store_that_cannot_be_looked_into_is_not_passed_in_silence(tiny):
    class ChromaVectorStore:
        client = object()

    with pytest.raises(ValueError, match=r"ChromaVectorStore cannot .* effir_integrations.check"):
        tiny.check_vector_store(ChromaVectorStore())


def test_the_store_in_memory_is_refused_for_a_model_of_inner_products(tiny):
    model = load(tiny.model_name)
    model.similarity_fn_name = "dot"
    embedding = EffirEmbedding.from_model(model)
    with pytest.raises(ValueError, match=r"scores by cosine.*FaissVectorStore"):
        embedding.check_vector_store(SimpleVectorStore())
    embedding.check_vector_store(FaissVectorStore(faiss.IndexFlatIP(32)))


def test_texts_are_embedded_in_the_order_of_what_holds_them(tiny):
    expected = tiny.get_text_embedding_batch(["w1", "w2 w3"])
    for held in (pd.Series(["w1", "w2 w3"], index=[4, 2]), {"w1": 0, "w2 w3": 1}.keys()):
        np.testing.assert_allclose(tiny.get_text_embedding_batch(held), expected, atol=1e-6)
    for bad, message in (
        ({"w1"}, "has no order"),
        (iter(["w1"]), "read only once"),
        ("w1", "one string"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.get_text_embedding_batch(bad)


def test_the_bar_moves_with_each_batch_and_spans_all_texts(tiny, monkeypatch):
    moves, totals = [], []
    real_start, real_advance = Progress.__init__, Progress.advance

    def start(self, total, *, shown):
        self.is_shown = shown
        totals.extend([total] * shown)
        real_start(self, total, shown=shown)

    def advance(self, texts, tokens):
        moves.extend([texts] * self.is_shown)
        real_advance(self, texts, tokens)

    monkeypatch.setattr(Progress, "__init__", start)
    monkeypatch.setattr(Progress, "advance", advance)
    texts = [f"w{n % 50} w{n // 50} " * 10 for n in range(2500)]
    tiny.get_text_embedding_batch(texts, show_progress=True)
    # embed_batch_size is 2048: that many at once would be two moves
    assert totals == [2500] and sum(moves) == 2500 and len(moves) > 10
