"""What an index keeps to: nodes that the model reads whole, a store that scores as it does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from llama_index.core.constants import DEFAULT_CHUNK_SIZE
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.vector_stores import SimpleVectorStore

from ...data.text import clean_text
from ...encoder.search_vectors import inner_product_is_similarity
from ...extras import import_extra

if TYPE_CHECKING:
    from ..lazy_encoder import LazyEncoder

_SEPARATOR = "\n\n"
"""What LlamaIndex puts between the metadata of a node and its text, and a splitter never counts."""
_MARGIN = 8
"""Tokens that a chunk can have more than its parts, which are counted one by one: 6 were seen, for
words cut from the space before them, with byte-level, SentencePiece and WordPiece tokenizers."""


def splitter(encoder: LazyEncoder, prompt: str, **options: Any) -> SentenceSplitter:
    """Return a splitter that counts tokens as the model does, and makes chunks that it reads whole.

    Args:
        encoder: Its limit holds for the prompt, the metadata and the chunk together.
        prompt: What the embedding puts in front of every node.
        options: As of `SentenceSplitter`. By default chunks are as long as the model and
            LlamaIndex's own default allow, and overlap by a fifth at most.

    Raises:
        ValueError: `chunk_size` exceeds what the model reads, or the model has no limit.
    """
    tokenizer, limit = encoder.tokenizer, encoder.limit
    if limit is None:
        raise ValueError(
            f"{encoder.name} reads texts of any length, so no chunk size follows from it; "
            "give the embedding a max_length"
        )
    room = limit - len(tokenizer(clean_text(prompt + _SEPARATOR), verbose=False)["input_ids"])
    size = options.pop("chunk_size", max(1, min(room - _MARGIN, DEFAULT_CHUNK_SIZE)))
    if size > room:
        raise ValueError(
            f"chunk_size={size}, but of its {limit} tokens {encoder.name} has {max(0, room)} left "
            f"for a chunk, after the prompt {prompt!r:.60} and special tokens"
        )
    options.setdefault("chunk_overlap", min(200, size // 5))
    return SentenceSplitter(chunk_size=size, tokenizer=partial(_tokens, tokenizer), **options)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(
        clean_text(text), add_special_tokens=False, truncation=False, verbose=False
    )["input_ids"]
    return ids


def check_vector_store(encoder: LazyEncoder, store: Any) -> None:
    """Refuse a store that would rank these vectors wrongly, or not at all.

    FAISS indexes and LlamaIndex's own store in memory are looked into, by their metric and
    dimension; which model their vectors are of they do not know, which `check_space` finds out.

    Raises:
        ValueError: It is another kind of store, of which only `check_space` can tell. Or a FAISS
            index scores by another metric than the inner product, the store in memory scores by
            cosine and the model does not, or vectors of another length are held.
    """
    index: Any = getattr(store, "client", None)
    if isinstance(store, SimpleVectorStore):
        if inner_product_is_similarity(encoder.encoder):
            raise ValueError(
                f"{type(store).__name__} scores by cosine, but the similarity of {encoder.name} is "
                "the inner product; use FaissVectorStore(faiss.IndexFlatIP(embedding.dimension))"
            )
        length = next((len(vector) for vector in store.data.embedding_dict.values()), None)
    elif hasattr(index, "metric_type") and hasattr(index, "d"):
        faiss = import_extra("faiss", "llama-index")
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            metric = {faiss.METRIC_L2: "L2"}.get(index.metric_type, index.metric_type)
            raise ValueError(
                f"{type(index).__name__} of this {type(store).__name__} measures distances (metric "
                f"{metric}), which LlamaIndex would take for scores, so that the farthest node had "
                "the highest; use faiss.IndexFlatIP(embedding.dimension)"
            )
        length = index.d
    else:
        raise ValueError(
            f"{type(store).__name__} cannot be looked into; give some of its vectors and the texts "
            "of their nodes to effir_integrations.check_space(embedding.get_text_embedding_batch, "
            "vectors, texts)"
        )
    if length is not None and length != encoder.dimension:
        raise ValueError(
            f"this {type(store).__name__} holds vectors of {length} dimensions, but those of "
            f"{encoder.name} have {encoder.dimension}; it was made for another model or "
            "truncate_dim: index again"
        )
