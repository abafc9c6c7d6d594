"""The one place that knows prompts, EOS, truncation, pooling and batching of an encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn

from ..data.inputs import listed, streamed
from ..data.text import ROLE_PROMPTS, clean_text
from ..model.cards import finished_card, pull_request_text
from ..model.weights import check_finite
from ..progress import Progress, progress_bar
from .call_lock import call_lock
from .heads import run_head, widened
from .inference import WINDOW, Inference, asks_for_vectors, finisher, is_plain, limit_of_call
from .precision import check_savable
from .prefix import depends_on_length, forget_lengths
from .shortcuts import Shortcuts, model_state, try_shortcuts
from .tokenization import cut_to, texts_without_tokens, token_limit
from .transformer import CheckedTransformer

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from .shapes import Shapes


class Encoder(SentenceTransformer):
    """A `SentenceTransformer` that encodes by token budgets, and takes any string.

    Texts are tokenised once, equal ones are run once, and batches are cut by their padded tokens,
    so `batch_size` has no effect. Where only the last token of a causal model counts, no mask is
    built, and tokens that all texts begin with, such as a prompt, are run once. Vectors are those
    of the stock class but for the rounding that other batches bring: 1e-6 in fp32. Pooling and
    what follows it run in fp32 in models of any dtype, and vectors are float32. Calls of several
    threads queue.
    """

    batch_tokens: int = 4096
    """Padded tokens of a batch, at most; a longer text has a batch of its own. Halved, with a
    warning, where they do not fit the memory of an accelerator."""
    batch_padding: int = 64
    """Padding tokens at which a batch is cut: about what another batch costs. On a CPU fewer, the
    larger the layers are."""
    tokens_encoded: int = 0
    """Real tokens of all texts so far, equal texts counted once a call."""
    shapes: Shapes | None = None
    """The batch shapes of a compiled model."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shortcuts: tuple[Any, Shortcuts] | None = None
        name = getattr(self.transformers_model, "name_or_path", "")
        check_finite(self.state_dict(), name or type(self).__name__)
        self._keep_limit()
        if self.device.type != "cpu":
            self.batch_tokens, self.batch_padding = 32768, 4096
        elif isinstance(self.transformers_model, nn.Module):
            size = sum(x.numel() for x in self.transformers_model.parameters() if x.ndim == 2)
            # measured: 8 to 16 is best for a decoder of 600M parameters, 32 to 64 for MiniLM of 23M
            self.batch_padding = min(64, max(8, 1_000_000_000 // max(1, size)))

    def _keep_limit(self) -> None:
        limit = token_limit(self)
        if limit is not None:  # written back, so that every path and every saved folder has it
            self.max_seq_length = limit

    def find_shortcuts(self) -> Shortcuts:
        """Return what the fast path may leave out, tried on a few tokens.

        Kept until the model changes: by surgery after it was loaded, or in its config.
        """
        if not is_plain(self):
            return Shortcuts()
        state = model_state(self)
        if self._shortcuts is None or self._shortcuts[0] != state:
            self._shortcuts = (state, try_shortcuts(self))
        return self._shortcuts[1]

    def encode(self, inputs: Any, *args: Any, max_length: int | None = None, **kwargs: Any) -> Any:
        """Embed texts as `SentenceTransformer.encode` does, which lists the other arguments.

        Args:
            inputs: A text, or a list of texts.
            args: As there.
            max_length: Tokens a text is cut to in this call, at most the encoder's own limit,
                which None takes.
            kwargs: As there.

        Raises:
            ValueError: A text is no string, texts come in no order or can be read only once,
                `truncate_dim` exceeds the dimension, or `max_length` the positions of the model.
        """
        options: dict[str, Any] = {**kwargs, **cut_to(self, max_length)}
        return super().encode(listed(inputs), *args, **options)

    def encode_stream(
        self, texts: Iterable[str], *, window: int = WINDOW, **kwargs: Any
    ) -> Iterator[np.ndarray]:
        """Yield the vectors of texts that arrive one by one, gathered in windows.

        Args:
            texts: Read as far as a window needs, never as a whole.
            window: Texts that are encoded together.
            kwargs: As of `encode`.

        Yields:
            (at most window, dimension) float32, in the order of the texts.

        Raises:
            ValueError: `texts` is one text, has no order, or is a table.
        """
        if window < 1:
            raise ValueError(f"window={window} must be at least 1")
        waiting = iter(streamed(texts))
        while part := list(islice(waiting, window)):
            yield self.encode(part, **kwargs)

    def _inference(
        self,
        inputs: list[Any],
        *,
        prompt: str | None = None,
        show_progress_bar: bool = False,
        output_value: str | None = "sentence_embedding",
        save_to_cpu: bool = True,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed texts; what asks for more than their vectors takes the stock way."""
        self._check_request(inputs, truncate_dim)
        with call_lock(self), torch.inference_mode():
            batch_size = kwargs.pop("batch_size")
            plain = inputs and asks_for_vectors(self, output_value, kwargs)
            shortcuts = self.find_shortcuts() if plain else Shortcuts()
            if not shortcuts.batches:
                return self._stock_inference(
                    inputs,
                    prompt=prompt,
                    batch_size=batch_size,
                    show_progress_bar=show_progress_bar,
                    output_value=output_value,
                    save_to_cpu=save_to_cpu,
                    normalize_embeddings=normalize_embeddings,
                    truncate_dim=truncate_dim,
                    device=device,
                    **kwargs,
                )
            if self.training or transformer_model(self).training:
                self.eval()
            finish = finisher(
                normalize=normalize_embeddings, truncate_dim=truncate_dim, to_cpu=save_to_cpu
            )
            texts = [clean_text((prompt or "") + text) for text in inputs]
            with Progress(len(set(texts)), shown=show_progress_bar) as progress:
                inference = Inference(
                    self,
                    self._inference_device(device),
                    shortcuts,
                    limit=limit_of_call(kwargs) or token_limit(self),
                    finish=finish,
                    advance=progress.advance,
                )
                vectors = inference.embed(texts)
            self.tokens_encoded += progress.tokens
            return vectors

    def start_multi_process_pool(self, target_devices: list[str] | None = None) -> Any:
        """Start worker processes as `SentenceTransformer` does, while no other thread encodes."""
        with call_lock(self):
            return super().start_multi_process_pool(target_devices)

    def _multi_process(
        self,
        inputs: Any,
        show_progress_bar: bool | None = True,
        pool: Any = None,
        device: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode on a pool; calls of several threads queue, since its results bear no name."""
        run = partial(
            super()._multi_process,
            inputs,
            show_progress_bar,
            pool=pool,
            device=device,
            chunk_size=chunk_size,
            **kwargs,
        )
        if pool is None:
            return run()
        with call_lock(pool):
            if pool.get("_holds_results"):
                raise RuntimeError(
                    "an earlier call on this pool was interrupted, and what its workers still "
                    "return would be taken for other texts; stop the pool and start a new one"
                )
            pool["_holds_results"] = True
            try:
                found = run()
            except Exception:
                # of a text that was refused all results are in; of a dead worker they are not
                pool["_holds_results"] = not all(x.is_alive() for x in pool["processes"])
                raise
            pool["_holds_results"] = False
            return found

    def _stock_inference(self, inputs: list[Any], **options: Any) -> Any:
        """Embed as `SentenceTransformer` does; texts of no token, which it refuses, get zeros."""
        if depends_on_length(getattr(self[0], "model", None)):
            options["batch_size"] = 1
        prompt = options["prompt"] or ""
        silent = options["output_value"] == "sentence_embedding" and texts_without_tokens(
            self, [clean_text(prompt + x) if isinstance(x, str) else x for x in inputs]
        )
        if not silent:
            return super()._inference(inputs, **options)
        heard = [place for place in range(len(inputs)) if place not in silent]
        found: Any = super()._inference([inputs[place] for place in heard], **options)
        size = found.shape[1] if heard else options["truncate_dim"] or self._dimension()
        vectors: torch.Tensor = found.new_zeros((len(inputs), size))
        if heard:
            vectors[heard] = found
        return vectors

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run all modules, those behind the first in fp32; else as `SentenceTransformer`."""
        features = input
        model: Any = getattr(self[0], "model", None)
        if not self.training and depends_on_length(model):
            forget_lengths(model)
        for place, (name, module) in enumerate(self.named_children()):
            read = [
                *(self.module_kwargs or {}).get(name, ()),
                *getattr(module, "forward_kwargs", ()),
            ]
            takes_all = isinstance(module, Router)
            own = {key: value for key, value in kwargs.items() if takes_all or key in read}
            features = run_head(module, features, **own) if place else module(features, **own)
        return widened(features)

    def _inference_device(self, device: str | torch.device | None) -> torch.device:
        # the stock look-up walks over all parameters, which only a move or a device map needs
        if device is None and not self._placement_is_delegated:
            return self.device
        return self._resolve_inference_device(device)

    def _load_module_class_from_ref(self, *args: Any, **kwargs: Any) -> type:
        found = super()._load_module_class_from_ref(*args, **kwargs)
        # a trainer that goes back to its checkpoint gives the classes, and wants no adapter merged
        return CheckedTransformer if found is Transformer and not self._module_classes else found

    def _check_request(self, inputs: Sequence[Any], truncate_dim: int | None) -> None:
        if set(getattr(self[0], "modality_config", ())) != {"text"}:
            return
        for place, text in enumerate(inputs):
            if not isinstance(text, str):
                raise ValueError(
                    f"text {place} of {len(inputs)} is {type(text).__name__} ({text!r:.60}), and "
                    "only strings can be encoded; decode bytes, and leave missing texts out"
                )
        dimension = self._dimension()
        if truncate_dim is not None and not 1 <= truncate_dim <= (dimension or truncate_dim):
            raise ValueError(
                f"truncate_dim={truncate_dim}, but the vectors have {dimension} dimensions; choose "
                f"1 to {dimension}"
            )

    def _dimension(self) -> int | None:
        """Return the length of whole vectors; `get_embedding_dimension` gives that of cut ones."""
        for module in reversed(list(self)):
            known = getattr(module, "get_embedding_dimension", None)
            if callable(known) and (dimension := known()) is not None:
                return int(dimension)
        return None

    def _repr_html_(self) -> str:
        """Return a table of what it is, as a notebook shows it."""
        from .summary import encoder_html

        return encoder_html(self)

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Write the folder as `SentenceTransformer` does.

        Raises:
            ValueError: The weights are held in 8 or 4 bits; nothing was written.
        """
        check_savable(self)
        super().save(path, *args, **kwargs)

    def push_to_hub(self, repo_id: str, *args: Any, **kwargs: Any) -> str:
        """Upload the folder as `SentenceTransformer` does.

        Raises:
            ValueError: The weights are held in 8 or 4 bits; no repository was made.
        """
        check_savable(self)
        return super().push_to_hub(repo_id, *args, **kwargs)

    def _create_model_card(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Write the card as `SentenceTransformer` does, naming the class that loads the folder."""
        data = self.model_card_data
        if not data.model_name:
            based = f" based on {data.base_model}" if data.base_model else ""
            data.model_name = f"{SentenceTransformer.__name__}{based}"
        # whether its example tells queries and documents apart; prompts may be newer than the model
        data.register_model(self)
        super()._create_model_card(path, *args, **kwargs)
        file = Path(path) / "README.md"
        # what was loaded is written as it was unless the model was trained since
        if file.is_file() and file.read_text("utf-8") != self._card_as_loaded():
            card = finished_card(file.read_text("utf-8"), self._model_card_text)
            file.write_text(card, encoding="utf-8")

    def _card_as_loaded(self) -> str | None:
        return self._model_card_text and self._update_default_model_id(self._model_card_text)

    def _update_default_model_id(self, model_card: str) -> str:
        """Fill the name on the hub into the example, which uses the stock class."""
        name, placeholder = self.model_card_data.model_id, self._model_card_model_id_placeholder
        call = SentenceTransformer.__name__
        if not name:
            return model_card
        return model_card.replace(f'{call}("{placeholder}"', f'{call}("{name}"')

    def _push_to_hub_usage_tip(self, repo_id: str) -> str:
        return pull_request_text(repo_id, self._model_card_text)

    def preprocess(self, inputs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Tokenise after `clean_text`; everything else as in `SentenceTransformer`."""
        cleaned = [clean_text(text) if isinstance(text, str) else text for text in inputs]
        return super().preprocess(cleaned, *args, **kwargs)


def transformer_model(encoder: Any) -> PreTrainedModel:
    """Return the Transformers model inside a `SentenceTransformer`.

    Raises:
        ValueError: There are several, one for queries and one for documents.
    """
    if isinstance(encoder[0], Router):
        raise ValueError(
            "this encoder holds two models; give one of them, which is .tower('query') or "
            ".tower('document') of what load returns"
        )
    return encoder[0].model


def role_prompt(encoder: SentenceTransformer, role: str) -> str:
    """Return the text that `encode_query` or `encode_document` puts in front; often none.

    Args:
        encoder: Its own prompts are looked up.
        role: `query` or `document`.
    """
    names = [name for name in ROLE_PROMPTS[role] if name in encoder.prompts]
    name = names[0] if names else encoder.default_prompt_name
    return (encoder.prompts[name] or "") if name is not None else ""


def token_batches(
    encoder: SentenceTransformer,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    batch_tokens: int = 8192,
    prompt: str | None = None,
    description: str = "texts",
    show_progress: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield model inputs of similar lengths, at most `batch_tokens` padded tokens each.

    Texts are cut to `max_length` tokens (None: the encoder's own) and sorted by length in windows,
    so memory does not grow with their number. Each batch holds `input_ids` and `attention_mask`
    (batch, tokens) on the encoder's device.
    """
    window = 256
    bar = progress_bar(total=len(texts), desc=description, unit="text", shown=show_progress)
    limit, cut = token_limit(encoder, max_length), cut_to(encoder, max_length)
    with bar:
        for start in range(0, len(texts), window):
            part = texts[start : start + window]
            for batch in _length_batches(encoder, part, batch_tokens, prompt, limit):
                features = encoder.preprocess(batch, prompt=prompt, **cut)
                yield {
                    key: value.to(encoder.device) if torch.is_tensor(value) else value
                    for key, value in features.items()
                }
                bar.update(len(batch))


def _length_batches(
    encoder: SentenceTransformer,
    texts: Sequence[str],
    batch_tokens: int,
    prompt: str | None,
    limit: int | None,
) -> Iterator[list[str]]:
    cleaned = [clean_text((prompt or "") + text) for text in texts]
    cut: dict[str, Any] = {"truncation": limit is not None, "max_length": limit}
    encoded = encoder.tokenizer(cleaned, **cut)["input_ids"]
    order = sorted(range(len(texts)), key=lambda index: (len(encoded[index]), index))
    batch: list[str] = []
    for index in order:
        # ascending lengths: the newest text is the longest, so it sets the padded size
        if batch and (len(batch) + 1) * len(encoded[index]) > batch_tokens:
            yield batch
            batch = []
        batch.append(texts[index])
    yield batch
