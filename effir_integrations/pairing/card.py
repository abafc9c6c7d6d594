"""The README of a pair."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from ..model.cards import EXAMPLE, IMPORT, USAGE, keep_metadata
from .towers import Tower

_CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- asymmetric
---

# {query} for queries, {document} for documents

Two encoders of one space, put together by
[effir-integrations](https://pypi.org/project/effir-integrations/) {version}. `encode_query` runs
the small one; `encode_document` and plain `encode` run the full one, whose vectors are as they
were: an index made with it can be kept.

| | queries | documents |
|---|---|---|
| encoder | {query} | {document} |
| parameters (without LM head) | {query_parameters:,} ({share:.1%}) | {document_parameters:,} |
| prompt | {query_prompt} | {document_prompt} |

Both give {dimension} numbers. Of {texts} texts, the vectors of `encode_query` have a mean cosine of
{cosine:.4f} to those that the document encoder gives of the same queries.{mapped}\
 How well it retrieves was
not measured here.

{usage_title}

```python
{imports}from sentence_transformers import SentenceTransformer

# the folder of this model, or its name on the hub
model = SentenceTransformer("sentence_transformers_model_id")
{example}```
{loading}"""
_LOADING = """
Without the package, add `trust_remote_code=True`: that runs the modelling file in this folder and
gives the same vectors.
"""


def pair_card(
    query: Tower,
    document: Tower,
    *,
    parameters: tuple[int, int],
    cosine: float,
    texts: int,
    mapped: str = "",
    own_class: bool,
    base_card: str | None,
) -> str:
    """Return the text of the card.

    Args:
        query: The encoder of queries.
        document: The encoder of documents.
        parameters: Of both, in this order.
        cosine: Mean one of the vectors that both give of queries.
        texts: How many these were.
        mapped: What is to be said of a linear map, after a space; empty for nothing.
        own_class: Whether a tower needs this package or its modelling file.
        base_card: Of the document encoder; its licence and language are kept.
    """
    card = _CARD.format(
        query=_title(query),
        document=_title(document),
        version=version("effir-integrations"),
        query_parameters=parameters[0],
        document_parameters=parameters[1],
        share=parameters[0] / parameters[1],
        query_prompt=_prompt(query.prompt("query")),
        document_prompt=_prompt(document.prompt("document")),
        dimension=document.dimension,
        texts=texts,
        mapped=mapped,
        cosine=cosine,
        usage_title=USAGE,
        imports=IMPORT if own_class else "",
        example=EXAMPLE,
        loading=_LOADING if own_class else "",
    )
    return keep_metadata(card, base_card)


def _title(tower: Tower) -> str:
    return Path(tower.name).name or tower.name


def _prompt(text: str) -> str:
    return f"`{text!r}`" if text else "none"
