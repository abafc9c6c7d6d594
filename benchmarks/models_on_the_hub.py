"""What is known of models on the hub, for docs/models.md: read on their cards, or not at all.

`?` stands for what was not read. Figures of `KEPT` are copied from docs/benchmarks.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model, or several of one making."""

    name: str
    type: str
    """The `model_type` of its config.json."""
    licence: str
    pooling: str = "?"
    prompts: str = "?"
    heads: str = "?"
    matryoshka: str = "?"
    tried: str = "no"
    """Whether this model itself was pruned here."""


HUB = (
    HubModel(
        name="Qwen3-Embedding 0.6B, 4B, 8B",
        type="qwen3",
        pooling="last token",
        prompts="an instruction for queries",
        matryoshka="yes",
        licence="Apache-2.0",
    ),
    HubModel(
        name="harrier 0.6B",
        type="qwen3",
        pooling="last token",
        prompts="an instruction",
        licence="MIT",
    ),
    HubModel(
        name="Octen 8B",
        type="qwen3",
        pooling="last token",
        prompts="an instruction",
        licence="Apache-2.0",
    ),
    HubModel(name="F2LLM-v2 80M to 14B", type="qwen3", pooling="last token", licence="Apache-2.0"),
    HubModel(name="harrier 270M, 27B", type="gemma3_text", pooling="last token", licence="MIT"),
    HubModel(
        name="KaLM-Gemma3-12B",
        type="gemma3_text",
        pooling="last token",
        matryoshka="yes",
        licence="Gemma",
    ),
    HubModel(
        name="EmbeddingGemma-300M (both sides)",
        type="gemma3_text",
        pooling="mean",
        heads="2 Dense",
        matryoshka="yes",
        licence="Gemma",
    ),
    HubModel(
        name="Nemotron-3-Embed 1B, 8B (both sides)",
        type="ministral3",
        pooling="mean",
        licence="OpenMDW",
    ),
    HubModel(name="jina-v5-nano", type="eurobert", pooling="last token", licence="CC BY-NC"),
    HubModel(name="gte-modernbert", type="modernbert", pooling="CLS", licence="Apache-2.0"),
    HubModel(name="granite 97m, 311m multilingual r2", type="modernbert", licence="Apache-2.0"),
    HubModel(name="bekko a8m, a25m", type="modernbert", matryoshka="yes", licence="MIT"),
    HubModel(name="bge-m3", type="xlm-roberta", pooling="CLS", licence="MIT"),
    HubModel(name="arctic-l-v2", type="xlm-roberta", pooling="CLS", licence="Apache-2.0"),
    HubModel(name="multilingual-e5 base, large", type="xlm-roberta", pooling="mean", licence="MIT"),
    HubModel(name="multilingual-e5-small", type="bert", pooling="mean", licence="MIT"),
    HubModel(name="mxbai-large", type="bert", licence="Apache-2.0"),
    HubModel(
        name="mdbr-leaf-ir", type="bert", pooling="mean", heads="1 Dense", licence="Apache-2.0"
    ),
    HubModel(
        name="all-MiniLM-L6-v2",
        type="bert",
        pooling="mean",
        prompts="none",
        heads="none",
        licence="Apache-2.0",
        tried="yes",
    ),
    HubModel(
        name="all-mpnet-base-v2",
        type="mpnet",
        pooling="mean",
        licence="Apache-2.0",
        tried="yes",
    ),
    HubModel(
        name="SmolLM2-135M-Instruct, an LLM, made a retriever",
        type="llama",
        pooling="mean, chosen here",
        prompts="none",
        heads="1 Dense, trained here",
        licence="Apache-2.0",
        tried="yes",
    ),
    HubModel(
        name="nomic v1.5, without its `auto_map`",
        type="nomic_bert",
        pooling="mean",
        licence="Apache-2.0",
    ),
    HubModel(
        name="gte-multilingual-base of alibaba-nlp-community",
        type="gte",
        pooling="CLS",
        licence="Apache-2.0",
    ),
    HubModel(name="jina-embeddings-v3-hf", type="jina_embeddings_v3", licence="?"),
    HubModel(
        name="llama-embed-nemotron-8b", type="llama_bidirec", pooling="mean", licence="research"
    ),
    HubModel(
        name="EmbeddingGemma-2",
        type="embedding_gemma2",
        pooling="mean",
        prompts="SearchQuery, Document",
        heads="none",
        licence="Apache-2.0 on the card, Gemma in mteb",
    ),
    HubModel(name="LFM2.5-Embedding", type="lfm2", pooling="CLS", licence="LFM 1.0"),
)

OWN_CODE = ("voyage-4-nano", "jina-v5-small", "pplx-embed-v1")
"""Models of type qwen3 whose config.json names code of their own."""

KEPT = (
    ("all-MiniLM-L6-v2", "50 % of the neurons, reconstruct", "1.0247"),
    ("all-MiniLM-L6-v2", "30 % of the neurons, reconstruct", "0.9820"),
    (
        "all-mpnet-base-v2, in 1,483 documents",
        "50 % of the neurons, reconstruct, by stream",
        "0.992 (0.973 to 1.013)",
    ),
    (
        "all-mpnet-base-v2, in 1,483 documents",
        "30 % of the neurons, reconstruct, by stream",
        "0.975 (0.948 to 1.004)",
    ),
    (
        "the SmolLM2 retriever, in 583 documents",
        "50 % of the neurons, reconstruct, by stream",
        "0.959 (0.936 to 0.981)",
    ),
)
