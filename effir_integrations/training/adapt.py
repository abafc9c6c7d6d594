"""Make a language model ready for retrieval by texts alone, before it sees a pair (LLaRA)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from ..data.calibration import calibrated
from ..data.sentences import sentence_pairs
from ..encoder.encoder import Encoder, role_prompt, transformer_model
from ..encoder.loading import loaded
from ..extras import import_extra
from ..progress import is_shown
from .config import AdaptConfig
from .heal import heal
from .lm_head import lm_head
from .losses import PretextLoss
from .stage import Stage, train

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.calibration import Calibration


def adapt(
    model: SentenceTransformer | str | Path,
    texts: Calibration | str | Path | Sequence[str] | None,
    config: AdaptConfig,
    out: str | Path,
    *,
    history: Mapping[str, Any] | None = None,
    force: bool = False,
    show_progress: bool | None = None,
) -> SentenceTransformer:
    """Train a decoder so that a sentence's embedding predicts the tokens of it and of the next.

    A language model's last state foretells one token; a retriever's has to stand for the whole
    text. Here the embedding of each sentence, put through the language-modelling head, must predict
    the set of tokens of the sentence and that of the sentence after it, as in LLaRA (arXiv
    2312.15503), but without its prompts: one embedding serves both. The head itself is as it was,
    unless it is tied to token embeddings that train. Otherwise as `finetune`, which is what should
    follow.

    Args:
        model: A causal language model, most often bare, or the folder or name to load it from; a
            loaded one is used up.
        texts: Texts of two sentences and more, without prompts: a list, or what `load_calibration`
            takes. Each sentence that another follows is an example.
        config: How to train.
        out: Folder to write; must be new or empty unless `force`.
        history: Of the encoder, to continue; None begins one.
        force: Replace what is there and start over.
        show_progress: Draw a progress bar;
            None: where someone watches, in a notebook or a terminal.

    Returns:
        The encoder as loaded from the written folder.

    Raises:
        FileExistsError: `out` holds something else and `force` was not given, or files of others.
        ValueError: The model has no language-modelling head, its states go through more than
            pooling, it carries an adapter, no text has two sentences, the checkpoints are of
            another run, `out` holds the model or lies in it, or another process trains into it.
        RuntimeError: The loss is not finite, or the merged model differs from the adapted one.
    """
    show_progress = is_shown(show_progress)
    encoder, texts = loaded(model), calibrated(texts)
    pooled = _without_normalize(encoder)
    head = lm_head(encoder)
    rows = _examples(encoder, texts)
    digest = hashlib.sha256()
    for row in rows:
        digest.update("\0".join((*row.values(), "")).encode())
    data = {"source": texts.source, "sha256": digest.hexdigest(), "examples": len(rows)}

    def run(work: Path) -> list[dict[str, float]]:
        loss = PretextLoss(
            pooled,
            head,
            own_weight=config.own_weight,
            next_weight=config.next_weight,
            left_out=encoder.tokenizer.all_special_ids,
            softcap=getattr(transformer_model(encoder).config, "final_logit_softcapping", None),
        )
        return train(
            pooled,
            import_extra("datasets", "train").Dataset.from_list(rows),
            loss,
            config,
            work,
            description="Adapting",
            show_progress=show_progress,
        )

    stage = Stage(name="adapt", config=config, data=data)
    return heal(encoder, stage, run, Path(out), history=history, force=force)


def _without_normalize(encoder: SentenceTransformer) -> Encoder:
    """Return an encoder of the same transformer and pooling, whose vectors keep their length.

    Raises:
        ValueError: More than a normalisation stands behind them.
    """
    first, *others = encoder
    kinds = [type(module) for module in others]
    if kinds[:1] != [Pooling] or set(kinds[1:]) - {Normalize}:
        names = ", ".join(kind.__name__ for kind in kinds) or "nothing"
        raise ValueError(
            f"behind the transformer stand {names}, and the head reads pooled states alone; adapt "
            "the bare language model, and give it further modules afterwards"
        )
    return Encoder(modules=[first, others[0]], prompts=encoder.prompts)


def _examples(encoder: SentenceTransformer, texts: Calibration) -> list[dict[str, str]]:
    """Return each sentence as it is encoded, as it is, and the one after it.

    Raises:
        ValueError: No text has two sentences.
    """
    prompt = role_prompt(encoder, "document")
    rows = [
        {"text": prompt + sentence, "own": sentence, "next": following}
        for sentence, following in sentence_pairs(texts.texts)
    ]
    if not rows:
        raise ValueError(
            f"none of the {len(texts)} texts of {texts.source!r} has two sentences, and the next "
            "one is to be predicted; give whole passages rather than titles or queries"
        )
    return rows
