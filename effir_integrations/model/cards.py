"""What the card of a model keeps when a new one takes its place."""

from __future__ import annotations

from typing import Any

import yaml

OUR_TAG = "effir"
"""Tells a card of a pruned model from others."""
USAGE = "## How to use it"
STAGES = "## How it was made"
_REMOVED = "## What was removed before"
IMPORT = "import effir_integrations  # registers the model type; pip install effir-integrations\n"
EXAMPLE = """queries = ["how do plants make sugar?"]
documents = ["Photosynthesis stores light as sugar.", "Ships float."]
query_embeddings = model.encode_query(queries)
document_embeddings = model.encode_document(documents)
similarities = model.similarity(query_embeddings, document_embeddings)
print(similarities)
"""
"""What to do with a model: right with any prompts and with none."""
_KEPT = ("license", "license_name", "license_link", "language")
_STOCK_IMPORT = "from sentence_transformers import SentenceTransformer\n"


def keep_metadata(card: str, old: str | None) -> str:
    """Return a card with the licence and language of the one before, where it states none itself.

    Of a pruned model's card, tags and base model stay as well: what is true of others, such as a
    runtime that loads them, need not be true of what is made of them.

    Args:
        card: Markdown with the hub's metadata on top.
        old: The card of the model that this one was made from, or of this one before it was saved.
    """
    before = _metadata(old or "")[0]
    content, body = _metadata(card)
    kept = {key: before[key] for key in _KEPT if before.get(key)}
    if is_ours(old):
        kept.update({key: before[key] for key in ("base_model",) if before.get(key)})
        tags = [*_listed(content.get("tags")), *_listed(before.get("tags"))]
        content["tags"] = list(dict.fromkeys(tags))
    content = {**kept, **content}
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n{body}"


def finished_card(card: str, old: str | None) -> str:
    """Return a card that Sentence Transformers generated, true of an `Encoder`.

    The folder loads with the stock class, so the card names that one. After training a pruned
    model it goes on to say what was removed from which base, and its code imports this package
    where the model needs it.

    Args:
        card: As it was generated.
        old: The card that lay in the folder the model was loaded from, if there was one.
    """
    card = card.replace("Encoder(\n  (0)", "SentenceTransformer(\n  (0)", 1)
    if not is_ours(old):
        return card
    card = keep_metadata(card, old).replace(_STOCK_IMPORT, _needed(old) + _STOCK_IMPORT, 1)
    return f"{card.rstrip()}\n\n{_REMOVED}\n\n{_what_was_removed(old or '')}\n"


def pull_request_text(repository: str, card: str | None) -> str:
    """Return what a pull request on the hub says about trying its model.

    Args:
        repository: Its name.
        card: Of the model.
    """
    imports = f"{_needed(card)}{_STOCK_IMPORT}"
    return f"""## Testing this pull request

```python
{imports}
pr_number = 1  # that of this pull request
model = SentenceTransformer("{repository}", revision=f"refs/pr/{{pr_number}}")
{EXAMPLE}```
"""


def _needed(card: str | None) -> str:
    """Return the import that a model with this card does not load without, if there is one."""
    return IMPORT if card and is_ours(card) and IMPORT in card else ""


def _what_was_removed(old: str) -> str:
    body = _metadata(old)[1].lstrip()
    if _REMOVED in body:
        return body.partition(_REMOVED)[2].strip()
    # the first line is the title, which the new card has
    shape, _, rest = body.partition("\n")[2].partition(USAGE)
    return f"{shape.strip()}\n\n{rest.partition(STAGES)[2].strip()}".strip()


def is_ours(card: str | None) -> bool:
    """Say whether a card is that of a pruned model."""
    return OUR_TAG in _listed(_metadata(card or "")[0].get("tags"))


def _metadata(card: str) -> tuple[dict[str, Any], str]:
    """Split a card into its metadata and what follows; bad metadata counts as none.

    `huggingface_hub.ModelCard` raises where metadata is bad, and warns where there is none.
    """
    lines = card.replace("\r\n", "\n").removeprefix("\ufeff")
    block, closed, body = lines.removeprefix("---\n").partition("\n---\n")
    if not lines.startswith("---\n") or not closed:
        return {}, lines
    try:
        content = yaml.safe_load(block)
    except yaml.YAMLError:
        return {}, body
    return (content, body) if isinstance(content, dict) else ({}, body)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []
