"""Write docs/models.md: every family, models on the hub that are of it, and what is refused.

    python benchmarks/models_page.py

The families and the refusals are those of the code. What is said of models on the hub is noted in
`models_on_the_hub.py`, and what they keep is copied from docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from models_on_the_hub import HUB, KEPT, OWN_CODE, HubModel

from effir_integrations.adapters.vllm import NATIVE
from effir_integrations.conversion.gguf_families import FAMILIES as GGUF
from effir_integrations.files import new_file
from effir_integrations.model.families import ARCHITECTURES, Architecture
from effir_integrations.model.refused import OTHERS, REFUSED

PAGE = Path(__file__).parents[1] / "docs" / "models.md"

INTRO = """# Models

<!-- Written by `python benchmarks/models_page.py`: change what it reads, and run it again. -->

What can be pruned is a matter of the `model_type` in a model's config.json. The families below
have a row in the table of `effir_integrations/model/families.py`; any other type is refused by
name, before weights are read. Adding one is adding a row:
[CONTRIBUTING](../CONTRIBUTING.md#add-a-family).

## Families

Each is tried on tiny random models: that dropping a sublayer is zeroing its output, that slicing
is masking, that a pruned folder reloads bit for bit with this package and, by remote code,
without it, and that its vectors are those of Sentence Transformers. Columns:

* **sees**: whether a token attends to those before it alone; `is_causal: false` in the config, or
  `load(..., bidirectional=True)`, makes a decoder see both sides.
* **whole blocks**: whether a model without some of its blocks is a plain, shorter model of the
  family. Where it is not, a norm stays behind; narrower MLPs of one width (`--uniform`) are plain
  in every family.
* **from disk**: whether `--from-disk` reads its checkpoints tensor by tensor. The others are
  stored under other names than their class has, and are loaded.
* **GGUF**, **vLLM**: llama.cpp's graph of the family where blocks are alike, and whether a class
  of vLLM's own is narrowed; what was run there, and which vLLM itself refuses:
  [serving.md](serving.md).
"""
HUB_INTRO = """## On the hub

Pooling, prompts, heads, Matryoshka (MRL) and licence are those of the model cards and of mteb
2.26's metadata as of 27 November 2026; "?" is what we have not read. A licence counts for what is
pruned as well. "Tried" says whether this model itself was pruned here; the others are of a family
that was tried on tiny models alone.
"""
KEPT_INTRO = """## What pruned models keep

nDCG@10 on SciFact, as a share of the full model's; more of these, with the conditions of each:
[benchmarks.md](benchmarks.md).
"""
REFUSED_INTRO = """## Refused, and why

* **Code of its own.** {own_code}
  are of a type that has a row, but their config.json names modelling code of their own
  (`auto_map`), by which tokens may see those after them, or more is computed. The class of
  Transformers would load the same weights and give other vectors, with no warning: so `load`
  refuses them, and so does every stage. With `trust_remote_code=True` the code runs, and a stage
  compares it with the class that a pruned model would be: what computes the same is pruned,
  anything else is refused. Where the class of Transformers is what you mean, as for a model that
  was published before Transformers had its type, delete `auto_map` from its config.json.
* **Types without a row.** The reasons that the error gives:
"""


def main() -> None:
    """Write the page."""
    with new_file(PAGE) as draft:
        draft.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the whole page."""
    own_code = ", ".join(OWN_CODE[:-1]) + f" and {OWN_CODE[-1]}"
    parts = [
        INTRO,
        table(FAMILY_HEAD, map(family_row, ARCHITECTURES.values())),
        HUB_INTRO,
        table(HUB_HEAD, map(hub_row, HUB)),
        KEPT_INTRO,
        table(("model", "pruned", "share kept"), KEPT),
        REFUSED_INTRO.format(own_code=own_code),
        table(("model types", "why"), refusals()),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


FAMILY_HEAD = ("family", "model type", "sees", "whole blocks", "from disk", "GGUF", "vLLM")


def family_row(row: Architecture) -> tuple[str, ...]:
    """Return the cells of a family."""
    return (
        row.class_prefix,
        f"`{row.family}`",
        "before it" if row.causal else "both sides",
        "a norm stays" if row.mlp_sum else "plain",
        "no" if row.stored_otherwise else "yes",
        f"`{GGUF[row.family].graph.arch}`" if row.family in GGUF else "refused",
        "own class" if row.family in NATIVE else "class of Transformers",
    )


HUB_HEAD = ("model", "type", "pooling", "prompts", "heads", "MRL", "licence", "tried")


def hub_row(model: HubModel) -> tuple[str, ...]:
    """Return the cells of a model on the hub."""
    known = model.type in ARCHITECTURES
    return (
        model.name,
        f"`{model.type}`" if known else f"`{model.type}`, refused",
        model.pooling,
        model.prompts,
        model.heads,
        model.matryoshka,
        model.licence,
        model.tried if known else "no",
    )


def refusals() -> Iterable[tuple[str, str]]:
    """Yield the types that share a reason, and the reason."""
    for why in dict.fromkeys(REFUSED.values()):
        yield ", ".join(f"`{name}`" for name, reason in REFUSED.items() if reason == why), why
    yield "all others", OTHERS


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
