"""A cross-encoder whose weights are checked while they are loaded."""

from __future__ import annotations

from typing import Any

from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn

from effir_integrations.encoder.sources import read_config
from effir_integrations.encoder.transformer import CheckedTransformer
from effir_integrations.model.weights import check_finite


class CheckedCrossEncoder(CrossEncoder):
    """Loads as `CrossEncoder` does, and refuses weights that are not those of the model.

    Raises:
        ValueError: Weights are missing, of another shape, not read, NaN or infinite.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        check_finite(self.state_dict(), name)

    def _load_module_class_from_ref(self, *args: Any, **kwargs: Any) -> type:
        found = super()._load_module_class_from_ref(*args, **kwargs)
        return CheckedTransformer if found is Transformer else found

    def _load_default_modules(
        self, model_name_or_path: str, *args: Any, model_kwargs: Any = None, **kwargs: Any
    ) -> tuple[list[nn.Module], dict[str, Any]]:
        """Make what the stock class makes of a folder without modules, from checked weights."""
        architectures = read_config(model_name_or_path).architectures or [""]
        causal = architectures[0].endswith("ForCausalLM")
        task: Any = "text-generation" if causal else "sequence-classification"
        transformer: Any = CheckedTransformer(
            model_name_or_path, transformer_task=task, model_kwargs=model_kwargs
        )
        if not causal:
            return [transformer], {}
        yes, no = transformer.tokenizer.convert_tokens_to_ids(["yes", "no"])
        if yes is None or no is None:
            raise ValueError(
                f"{model_name_or_path} has no tokens 'yes' and 'no' to score a pair by; give a "
                "reranker with one label"
            )
        return [transformer, LogitScore(true_token_id=yes, false_token_id=no)], {}
