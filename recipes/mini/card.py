"""Turn the trained encoder into the folder that is shipped: bf16 weights, card, nothing else."""

from __future__ import annotations

from pathlib import Path

from effir_integrations import load
from effir_integrations.encoder.folder import check_same_vectors
from effir_integrations.encoder.tokenization import save_tokenizer
from effir_integrations.files import new_folder

CARD = Path(__file__).with_name("CARD.md")


def write_release(trained: Path, out: Path) -> None:
    """Write the folder that the package carries.

    Raises:
        RuntimeError: What loads from it gives other vectors than the trained model in bf16.
    """
    encoder = load(trained, dtype="bf16")
    with new_folder(out, force=True) as folder:
        encoder.save_pretrained(str(folder), create_model_card=False)
        save_tokenizer(encoder.tokenizer, folder)
        (folder / "README.md").write_text(CARD.read_text(encoding="utf-8"), encoding="utf-8")
        check_same_vectors(encoder, load(folder, dtype="auto"))
