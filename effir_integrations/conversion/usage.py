"""How the card of a converted model says to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..onnx import openvino, runtime
from .engine_files import padding_token, text_limit
from .graph import leaves_prompt_out

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder

_OURS = """Neither torch nor Transformers is needed: `pip install --no-deps effir-integrations`, and
`pip install {package} tokenizers numpy`.

```python
from effir_integrations.onnx import {kind}

encoder = {kind}("FOLDER")
queries = encoder.encode_query(["how do plants make sugar?"])
documents = encoder.encode_document(["Photosynthesis stores light as sugar.", "Ships float."])
print(queries @ documents.T)
```
"""
_TOKENS = """from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("FOLDER/tokenizer.json")
tokenizer.enable_truncation({limit}, direction="{side}")
tokenizer.enable_padding(pad_id={pad_id}, pad_token="{pad_token}")
encoded = tokenizer.encode_batch([{text!r}])
inputs = {{
    "input_ids": np.array([x.ids for x in encoded]),
    "attention_mask": np.array([x.attention_mask for x in encoded]),
}}
"""
_RUNTIME = """
In onnxruntime alone; a prompt goes in front of the text:

```python
import numpy as np
import onnxruntime
{tokens}session = onnxruntime.InferenceSession("FOLDER/{file}")
(vectors,) = session.run(["sentence_embedding"], inputs)
```
"""
_FASTEMBED = """
In fastembed:

```python
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

TextEmbedding.add_custom_model(
    model="converted",
    pooling=PoolingType.DISABLED,  # the graph pools
    normalization=False,
    sources=ModelSource(url="https://example.invalid"),  # not read: the folder is given
    dim={dimension},
    model_file="{file}",
)
model = TextEmbedding("converted", specific_model_path="FOLDER")
print(list(model.embed([{text!r}])))
```

In TEI, whose CPU image runs ONNX (this follows from its source; it was not run):

```sh
text-embeddings-router --model-id FOLDER --dtype float32
```
"""
_LEAVES_OUT = """
Pooling leaves the prompt out, so the graph takes a third input, `prompt_length`: (1,) int64, the
tokens of the prompt in front of every text of the batch. Engines that feed ids and mask alone, such
as fastembed and TEI, refuse it.
"""
_OPENVINO = """
In OpenVINO alone; a prompt goes in front of the text:

```python
import numpy as np
import openvino
{tokens}model = openvino.Core().compile_model(
    "FOLDER/{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}}
)
vectors = model(inputs)["sentence_embedding"]
```

Without the hint OpenVINO computes in bf16 where the hardware has it: faster, and less exact.
"""


def onnx_usage(encoder: Encoder) -> str:
    """Return code for onnxruntime, fastembed and TEI."""
    text = _OURS.format(package="onnxruntime", kind="OnnxEncoder")
    if leaves_prompt_out(encoder):
        return text + _LEAVES_OUT
    file = runtime.FILE.as_posix()
    return (
        text
        + _RUNTIME.format(tokens=_tokens(encoder), file=file)
        + _FASTEMBED.format(dimension=_dimension(encoder), file=file, text=_example(encoder))
    )


def openvino_usage(encoder: Encoder) -> str:
    """Return code for OpenVINO."""
    text = _OURS.format(package="openvino", kind="OpenVinoEncoder")
    if leaves_prompt_out(encoder):
        return text + _LEAVES_OUT
    file = openvino.FILE.as_posix()
    return text + _OPENVINO.format(tokens=_tokens(encoder), file=file)


def _tokens(encoder: Encoder) -> str:
    tokenizer: Any = encoder.tokenizer
    token = padding_token(tokenizer)
    return _TOKENS.format(
        limit=text_limit(encoder),
        side=tokenizer.truncation_side,
        pad_id=tokenizer.convert_tokens_to_ids(token),
        pad_token=token,
        text=_example(encoder),
    )


def _example(encoder: Encoder) -> str:
    return (encoder.prompts.get("query") or "") + "how do plants make sugar?"


def _dimension(encoder: Encoder) -> int | None:
    return encoder.get_embedding_dimension()
