"""What --smoke trains on: docstrings of one installed package, and a tiny random decoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from mini import smoke
from mini.mixture import TEXTS
from mini.model import train_tokenizer

from effir_integrations.data.jsonl import read_jsonl
from effir_integrations.files import new_folder

LAYERS = 3


def gather_smoke(work: Path) -> Path:
    """Write `work/texts`, and return a folder with a judged corpus named as the real one is."""
    if not (work / "texts").is_dir():
        smoke.gather_smoke(work / "texts")
    if not (work / "beir").is_dir():
        with new_folder(work / "beir") as folder:
            shutil.copytree(work / "texts" / "docstrings", folder / "scifact")
            judged = folder / "scifact" / "qrels"
            header, *rows = (judged / "test.tsv").read_text(encoding="utf-8").splitlines(True)
            for split, part in (("train", rows[::2]), ("test", rows[1::2])):
                text = header + "".join(part)
                (judged / f"{split}.tsv").write_text(text, encoding="utf-8")
    return work / "beir"


def tiny_decoder(work: Path) -> str:
    """Return the folder of a decoder of SmolLM2's family, random, with a tokenizer of the texts."""
    from transformers import LlamaConfig, LlamaModel

    out = work / "decoder-to-try"
    if not out.is_dir():
        texts = [row["text"] for _, row in read_jsonl(work / "texts" / TEXTS)]
        tokenizer = train_tokenizer(texts, vocabulary=1_000)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
        with new_folder(out) as folder:
            LlamaModel(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return str(out)
