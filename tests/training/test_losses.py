"""InfoNCE, the teacher's divergence and the gates' surrogate against their definitions."""

from __future__ import annotations

import pytest
import torch

from effir_integrations.training.losses import (
    DistillationLoss,
    LossTerms,
    RetrievalLoss,
    gate_surrogate,
    info_nce,
    teacher_divergence,
)


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def unit(values: torch.Tensor) -> torch.Tensor:
    return values / values.norm(dim=-1, keepdim=True)


def info_nce_by_hand(queries, documents, temperature):
    everything = torch.cat(list(documents))
    total = torch.zeros((), dtype=torch.float64)
    for row, query in enumerate(queries):
        exponentials = torch.exp(unit(everything) @ unit(query) / temperature)
        total = total - torch.log(exponentials[row] / exponentials.sum())
    return total / len(queries)


def divergence_by_hand(queries, documents, scores, temperature, teacher_temperature):
    total = torch.zeros((), dtype=torch.float64)
    for row, query in enumerate(queries):
        own = torch.stack([column[row] for column in documents])
        student = torch.softmax(unit(own) @ unit(query) / temperature, dim=0)
        teacher = torch.softmax(scores[row] / teacher_temperature, dim=0)
        total = total + (teacher * (teacher.log() - student.log())).sum()
    return total / len(queries)


@pytest.mark.parametrize("negatives", [0, 1, 3])
def test_info_nce_and_its_gradient_equal_the_definition(negatives: int) -> None:
    queries = vectors(5, 7)
    documents = [vectors(5, 7, seed=1 + column) for column in range(1 + negatives)]
    ours = info_nce(queries, documents, 0.2)
    theirs = info_nce_by_hand(queries, documents, 0.2)
    assert abs((ours - theirs).item()) < 1e-6
    for mine, reference in zip(
        torch.autograd.grad(ours, [queries, *documents]),
        torch.autograd.grad(theirs, [queries, *documents]),
        strict=True,
    ):
        assert reference.abs().max() > 1e-3
        torch.testing.assert_close(mine, reference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_the_teachers_divergence_and_its_gradient_equal_the_definition(temperature: float) -> None:
    queries = vectors(4, 6)
    documents = [vectors(4, 6, seed=1 + column) for column in range(3)]
    scores = vectors(4, 3, seed=9).detach()
    arguments = (queries, documents, scores, temperature, 0.7)
    ours, theirs = teacher_divergence(*arguments), divergence_by_hand(*arguments)
    assert abs((ours - theirs).item()) < 1e-6
    for mine, reference in zip(
        torch.autograd.grad(ours, [queries, *documents]),
        torch.autograd.grad(theirs, [queries, *documents]),
        strict=True,
    ):
        assert reference.abs().max() > 1e-3
        torch.testing.assert_close(mine, reference, atol=1e-6, rtol=0)


def test_the_divergence_is_zero_when_the_student_agrees() -> None:
    queries = vectors(4, 6)
    documents = [vectors(4, 6, seed=1 + column) for column in range(3)]
    cosines = torch.stack([(unit(queries) * unit(x)).sum(-1) for x in documents], dim=1)
    assert float(teacher_divergence(queries, documents, cosines / 0.02, 0.02, 1.0)) < 1e-9
    assert float(teacher_divergence(queries, documents, -cosines / 0.02, 0.02, 1.0)) > 0.1


def test_the_surrogate_counts_a_closed_gate_as_a_half() -> None:
    gates = [torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0.5])]
    expected = 0.5 + 0.5 + torch.sigmoid(torch.tensor(5.0)) + torch.sigmoid(torch.tensor(2.5))
    assert torch.isclose(gate_surrogate(gates, 5.0), expected)


class Embeds(torch.nn.Module):
    """A model in fp64 whose embedding is a projection of the mean of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(50, 6, dtype=torch.float64)
        self.gate = torch.nn.Parameter(torch.rand(6, dtype=torch.float64) + 0.5)

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tokens = self.table(features["input_ids"]) * self.gate.relu()
        mask = features["attention_mask"][..., None]
        return {"sentence_embedding": (tokens * mask).sum(1) / mask.sum(1)}


def columns(count: int = 3, batch: int = 6) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(count):
        ids = torch.randint(0, 50, (batch, 5), generator=generator)
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return made


TERMS = LossTerms(temperature=0.1, teacher_weight=0.7, gate_weight=0.01)


@pytest.mark.parametrize("mini_batch_size", [1, 4, 6, 100])
def test_cached_gradients_equal_uncached_ones(mini_batch_size: int) -> None:
    scores = vectors(6, 2, seed=5).detach()
    results = []
    for size in (None, mini_batch_size):
        model = Embeds()
        loss = RetrievalLoss(model, TERMS, gates=[model.gate], mini_batch_size=size)
        terms = loss(columns(), scores)
        torch.stack(list(terms.values())).sum().backward()
        results.append((terms, [parameter.grad for parameter in model.parameters()]))
    (plain, expected), (cached, found) = results
    assert plain.keys() == cached.keys() == {"info_nce", "teacher", "gates"}
    for name, value in plain.items():
        assert float(value) > 0
        torch.testing.assert_close(cached[name], value, atol=1e-12, rtol=0)
    for mine, reference in zip(found, expected, strict=True):
        assert reference.abs().max() > 1e-4
        torch.testing.assert_close(mine, reference, atol=1e-12, rtol=0)


def test_scores_that_are_missing_are_named() -> None:
    model = Embeds()
    with pytest.raises(ValueError, match="carry no scores"):
        RetrievalLoss(model, TERMS)(columns(), None)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn() -> None:
    model, (column,) = Embeds(), columns(1)
    same = model(column)["sentence_embedding"].detach()
    for target in ("vectors", "similarities"):
        loss = DistillationLoss(model, target)
        assert float(loss([column], 3 * same)[target].detach()) < 1e-12
        assert float(loss([column], same.flip(0))[target].detach()) > 1e-3


def test_similarities_may_come_from_a_teacher_of_another_dimension() -> None:
    model, (column,) = Embeds(), columns(1)
    loss = DistillationLoss(model, "similarities")([column], torch.randn(6, 11))
    assert float(loss["similarities"].detach()) > 0


def test_vectors_are_followed_by_the_squared_distance_of_unit_vectors() -> None:
    model, (column,) = Embeds(), columns(1)
    teacher = torch.randn(6, 6)
    loss = DistillationLoss(model, "vectors")([column], teacher)["vectors"]
    ours = model(column)["sentence_embedding"].float()
    cosine = torch.nn.functional.cosine_similarity(ours, teacher, dim=-1)
    assert torch.isclose(loss, (2 - 2 * cosine).mean(), atol=1e-6)
