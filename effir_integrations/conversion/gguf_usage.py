"""How the card of a GGUF file says to use it, and the Modelfile for Ollama."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .to_gguf import Made

_SIZES = """llama.cpp cuts or refuses texts above the sizes of its batches, 512 tokens unless given:
all three are the longest text's here.

"""
_TEXTS = (
    _SIZES
    + """```python
from llama_cpp import Llama

n = {longest}
model = Llama("FOLDER/{file}", embedding=True, n_ctx=n, n_batch=n, n_ubatch=n, verbose=False)
vectors = model.embed([{text!r}], normalize={normalize})
```

```sh
llama-server -m FOLDER/{file} --embedding -c {longest} -b {longest} -ub {longest}
```

```sh
cd FOLDER && ollama create {tag} -f Modelfile
```

{length} Nothing puts a prompt in front of a text but you. A text of more than {longest} tokens has
to be cut before: the folder keeps the token at its end when it cuts, and llama.cpp does not.
"""
)
_IDS = """The file holds no tokenizer and takes token ids, which the tokenizer beside it gives:

```python
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
ids = tokenizer({text!r}, truncation=True, max_length={longest})["input_ids"]
```

and `llama_decode` of llama.cpp takes, with `n_ctx`, `n_batch` and `n_ubatch` of {longest}. {length}
"""
_FACTS = """
| | |
|---|---|
| graph of llama.cpp | `{arch}`, {blocks} blocks |
| pooling | {pooling}, stated in the file |
| tokens compared with the folder's | {ids} |
"""
_MORE = """
For other types run llama.cpp's own tool on a file in fp16, and compare the results:

```sh
llama-quantize FOLDER/{file} FOLDER/model-q4_k_m.gguf Q4_K_M
```
"""


def gguf_usage(made: Made, *, name: str, dtype: str, query: str) -> str:
    """Return commands and code for llama.cpp, llama-cpp-python and Ollama, and what differs."""
    takes_texts = made.vocabulary.model != "none"
    text = (_TEXTS if takes_texts else _IDS).format(
        file=made.file,
        longest=made.layout.longest,
        tag=_tag(Path(name).name),
        normalize=made.heads.normalized,
        text=query + "how do plants make sugar?",
        length=_length(made.heads.normalized),
    )
    facts = _FACTS.format(
        arch=made.layout.graph.arch,
        blocks=len(made.layout.blocks),
        pooling=made.heads.pooling.lower(),
        ids=_compared(made),
    )
    more = _MORE.format(file=made.file) if dtype == "fp16" else ""
    return text + facts + more + _differing(made, dtype)


def _length(normalized: bool) -> str:
    if normalized:
        return (
            "The folder's vectors have unit length, which llama-server and Ollama give by "
            "themselves."
        )
    return (
        "The folder's vectors have no unit length; llama-server gives them as they come with "
        "`--embd-normalize -1`, Ollama cannot."
    )


def _compared(made: Made) -> str:
    found = made.checked.ids_compared if made.checked else 0
    return f"of {found} texts, equal" if found else "no"


def _differing(made: Made, dtype: str) -> str:
    notes = list(made.notes)
    if made.kept_in_f16:
        notes.append(
            f"{len(made.kept_in_f16)} matrices have rows that are no multiple of 32 values, which "
            f"{dtype} cannot hold, and are fp16."
        )
    lines = "".join(f"* {note}\n" for note in notes)
    return f"\nWhat differs from the folder:\n\n{lines}" if notes else ""


def write_modelfile(folder: Path, made: Made) -> None:
    """Write `Modelfile`, from which Ollama makes its own copy; it takes texts alone."""
    if made.vocabulary.model == "none":
        return
    text = f"FROM ./{made.file}\nPARAMETER num_ctx {made.layout.longest}\n"
    (folder / "Modelfile").write_text(text, encoding="utf-8")


def _tag(name: str) -> str:
    return "".join(x if x.isalnum() or x in "-_." else "-" for x in name.lower()) or "model"
