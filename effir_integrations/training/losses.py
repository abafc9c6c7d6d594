"""The losses of trained compression: equations 2, 7 and 8, the teacher's scores, its vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util.distributed import get_world_size
from torch import nn
from torch.nn import functional

from ..fields import check_fields

Features = Iterable[dict[str, torch.Tensor]]


def info_nce(
    queries: torch.Tensor, documents: Sequence[torch.Tensor], temperature: float
) -> torch.Tensor:
    """Return the contrastive loss over positives, hard negatives and the batch (eq. 2).

    `-log( exp(cos(q, d+) / T) / sum_d exp(cos(q, d) / T) )`, mean over queries, with `d` running
    over all documents of the batch, of all processes where there are several.

    Args:
        queries: (batch, dimension).
        documents: Positives, then each column of hard negatives, each (batch, dimension).
        temperature: T; the paper's is 0.02.
    """
    nothing: Any = None  # it is given embeddings, so it runs no model and reads no labels
    ranking = MultipleNegativesRankingLoss(
        model=nothing,
        scale=1 / temperature,
        gather_across_devices=get_world_size() > 1,
    )
    return ranking.compute_loss_from_embeddings([queries, *documents], labels=nothing)


def teacher_divergence(
    queries: torch.Tensor,
    documents: Sequence[torch.Tensor],
    scores: torch.Tensor,
    temperature: float,
    teacher_temperature: float,
) -> torch.Tensor:
    """Return KL(teacher || student) over each query's own candidates, mean over queries (A.2).

    The student's logits are `cos / T` as in eq. 2. Unlike losses that are made for class logits it
    is not multiplied by T squared, which at 0.02 would all but remove it.

    Args:
        queries: (batch, dimension).
        documents: Positives, then each column of hard negatives, each (batch, dimension).
        scores: The teacher's logits of the same candidates, (batch, candidates).
        temperature: Of the student.
        teacher_temperature: What the teacher's logits are divided by.
    """
    candidates = torch.stack(list(documents), dim=1)  # (batch, candidates, dimension)
    cosine = functional.cosine_similarity(queries[:, None], candidates, dim=-1)
    student = functional.log_softmax(cosine / temperature, dim=1)
    teacher = functional.log_softmax(scores.to(student) / teacher_temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def gate_surrogate(gates: Iterable[torch.Tensor], beta: float) -> torch.Tensor:
    """Return `sum_i sigmoid(beta * |relu(z_i)|)` over all gates (eq. 8)."""
    return torch.stack([torch.sigmoid(beta * gate.relu()).sum() for gate in gates]).sum()


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """Which terms are added to the contrastive one, and how they are weighted."""

    temperature: float = 0.02
    """Of the cosines (A.2)."""
    teacher_weight: float = 0.0
    """Of the divergence from the teacher's scores; 0 leaves it out."""
    teacher_temperature: float = 1.0
    """What the teacher's scores are divided by."""
    gate_weight: float = 0.0
    """lambda of eq. 8."""
    beta: float = 5.0
    """Of eq. 8."""

    def __post_init__(self) -> None:
        check_fields(self)


class RetrievalLoss(CachedLossMixin, nn.Module):
    """InfoNCE, plus the teacher's divergence, plus the gates' surrogate; each is logged.

    With `mini_batch_size` the embeddings' gradients are cached (GradCache), so that memory is that
    of so many texts whatever the batch; loss and gradients stay the same.
    """

    def __init__(
        self,
        model: Any,
        terms: LossTerms,
        gates: Sequence[nn.Parameter] = (),
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.terms = terms
        self.gates = nn.ParameterList(gates)
        self.uses_gradient_cache = mini_batch_size is not None
        self.mini_batch_size = mini_batch_size or 0
        self._cached: dict[str, torch.Tensor] = {}

    def forward(
        self, sentence_features: Features, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the terms of a batch, whose sum is the loss.

        Args:
            sentence_features: Query, positive and negative columns.
            labels: The teacher's scores, (batch, candidates), where there are any.
        """
        if not self.uses_gradient_cache:
            return self._terms(embed_columns(self.model, list(sentence_features)), labels)
        total = self.forward_cached(sentence_features, labels)
        rest = {name: term for name, term in self._cached.items() if name != "info_nce"}
        # one term carries the gradient of all, and each still shows its own value
        return {"info_nce": total - sum(rest.values()), **rest}

    def _terms(
        self, columns: Sequence[torch.Tensor], labels: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        queries, *documents = columns
        terms = {"info_nce": info_nce(queries, documents, self.terms.temperature)}
        if self.terms.teacher_weight:
            if labels is None:
                raise ValueError("teacher_weight is set but the examples carry no scores")
            divergence = teacher_divergence(
                queries,
                documents,
                labels,
                self.terms.temperature,
                self.terms.teacher_temperature,
            )
            terms["teacher"] = self.terms.teacher_weight * divergence
        if len(self.gates):
            surrogate = gate_surrogate(self.gates, self.terms.beta)
            terms["gates"] = self.terms.gate_weight * surrogate
        return terms

    def calculate_loss(
        self,
        reps: list[list[torch.Tensor]],
        labels: torch.Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> torch.Tensor:
        """Return the summed terms of embeddings that came in mini-batches, as GradCache asks."""
        terms = self._terms([torch.cat(column) for column in reps], labels)
        loss = torch.stack(list(terms.values())).sum()
        self._cached = {name: term.detach() for name, term in terms.items()}
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss


class DistillationLoss(nn.Module):
    """Pulls a model's vectors, or the similarities between them, to its teacher's."""

    def __init__(self, model: Any, target: str) -> None:
        super().__init__()
        self.model = model
        self.target = target

    def forward(self, sentence_features: Features, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss of one batch of texts.

        Args:
            sentence_features: One column of texts.
            labels: The teacher's vectors of the same texts, (batch, teacher dimension).
        """
        (features,) = sentence_features
        student = functional.normalize(self.model(features)["sentence_embedding"].float(), dim=-1)
        teacher = functional.normalize(labels.to(student), dim=-1)
        if self.target == "vectors":
            return {"vectors": (student - teacher).square().sum(-1).mean()}
        # the diagonal is 1 on both sides, so it adds nothing
        difference = student @ student.T - teacher @ teacher.T
        pairs = len(difference) * (len(difference) - 1)
        return {"similarities": difference.square().sum() / pairs}


class PretextLoss(nn.Module):
    """Asks a text's embedding for the tokens of the text and of the sentence that follows it.

    Each term is the mean, over the different tokens of its target, of `-log softmax(W e)_t`, with
    `e` the embedding before it is normalised and `W` the head: the pretext tasks of LLaRA
    (arXiv 2312.15503). Which tokens are there counts, not where, nor how often.
    """

    def __init__(
        self,
        model: Any,
        head: torch.Tensor,
        *,
        own_weight: float,
        next_weight: float,
        left_out: Iterable[int] = (),
        softcap: float | None = None,
    ) -> None:
        """Set the tasks up.

        Args:
            model: Transformer and pooling, with nothing behind them.
            head: (vocabulary, hidden).
            own_weight: Of the term of the text's own tokens; 0 leaves it out.
            next_weight: Of that of the next sentence's; 0 leaves it out.
            left_out: Tokens that no target holds: special ones.
            softcap: Where the family caps its logits, at what.
        """
        super().__init__()
        self.model = model
        self.head = head
        self.weights = {"own": own_weight, "next": next_weight}
        self.softcap = softcap
        counts = torch.ones(len(head), device=head.device)
        counts[sorted(x for x in left_out if x < len(head))] = 0
        self.register_buffer("counts", counts, persistent=False)

    def forward(
        self, sentence_features: Features, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the terms of a batch, whose sum is the loss.

        Args:
            sentence_features: Columns of the text as it is encoded, of the text alone and of the
                next sentence; of the last two only the tokens are read.
            labels: None are needed.
        """
        text, own, following = sentence_features
        states = self.model(text)["sentence_embedding"]
        scores = functional.linear(states.to(self.head.dtype), self.head)
        scores = scores if scores.itemsize >= 4 else scores.float()
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        surprise = -functional.log_softmax(scores, dim=-1)
        targets = {"own": own, "next": following}
        return {
            name: weight * self._mean(surprise, targets[name])
            for name, weight in self.weights.items()
            if weight
        }

    def _mean(self, surprise: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """Average over the tokens of each target, then over the targets that have any."""
        there = torch.zeros_like(surprise)
        there.scatter_add_(1, target["input_ids"], target["attention_mask"].to(there))
        there = (there > 0) * self.get_buffer("counts")
        sizes = there.sum(dim=1)
        means = (surprise * there).sum(dim=1) / sizes.clamp_min(1)
        return means.sum() / (sizes > 0).sum().clamp_min(1)
