"""InfoNCE, the teacher's divergence and the gates' surrogate against their definitions."""

from __future__ import annotations

import dataclasses

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


def test_a_teacher_of_less_precision_is_read_in_that_of_the_student() -> None:
    queries = vectors(4, 6)
    documents = [vectors(4, 6, seed=1 + column) for column in range(3)]
    scores = (8 * vectors(4, 3, seed=9)).detach().bfloat16()
    ours = teacher_divergence(queries, documents, scores, 0.5, 0.7)
    theirs = divergence_by_hand(queries, documents, scores.double(), 0.5, 0.7)
    assert abs((ours - theirs).item()) < 1e-9


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


class Watched(Embeds):
    """Keeps how many texts each run held."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[int] = []

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.runs.append(len(features["input_ids"]))
        return super().forward(features)


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


def test_cached_gradients_need_no_more_texts_at_once_than_a_mini_batch() -> None:
    model = Watched()
    terms = RetrievalLoss(model, LossTerms(), mini_batch_size=4)(columns())
    torch.stack(list(terms.values())).sum().backward()
    # each of three columns of six texts, without a graph, then with one
    assert model.runs == [4, 2] * 6


def test_a_loss_that_is_only_looked_at_asks_for_no_gradient() -> None:
    scores, model = vectors(6, 2, seed=5).detach(), Embeds()
    plain = RetrievalLoss(model, TERMS, gates=[model.gate])
    cached = RetrievalLoss(model, TERMS, gates=[model.gate], mini_batch_size=4)
    expected = {name: term.detach() for name, term in plain(columns(), scores).items()}
    with torch.no_grad():
        found = cached(columns(), scores)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_part_of_the_graph_outlives_its_own_backward_pass() -> None:
    reps = [[vectors(3, 6, seed=seed), vectors(2, 6, seed=seed + 1)] for seed in (1, 3)]
    loss = RetrievalLoss(Embeds(), LossTerms(), mini_batch_size=3)
    assert loss.calculate_loss(reps).requires_grad
    assert reps[0][0].grad is None
    assert not loss.calculate_loss(reps, with_backward=True).requires_grad
    assert reps[0][0].grad is not None


def embedded(model: Embeds) -> list[torch.Tensor]:
    return [model(column)["sentence_embedding"] for column in columns()]


def test_each_term_is_what_it_says_times_its_weight() -> None:
    scores, model = vectors(6, 2, seed=5).detach(), Embeds()
    queries, *documents = embedded(model)
    terms = LossTerms(
        temperature=0.1, teacher_weight=0.7, teacher_temperature=0.3, gate_weight=0.01, beta=2.0
    )
    found = RetrievalLoss(model, terms, gates=[model.gate])(columns(), scores)
    expected = {
        "info_nce": info_nce_by_hand(queries, documents, 0.1),
        "teacher": 0.7 * divergence_by_hand(queries, documents, scores, 0.1, 0.3),
        "gates": 0.01 * torch.sigmoid(2.0 * model.gate.relu()).sum(),
    }
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_what_is_not_set_is_the_papers_loss_of_queries_and_documents_alone() -> None:
    scores, model = vectors(6, 2, seed=5).detach(), Embeds()
    queries, *documents = embedded(model)
    for labels in (None, scores):
        found = RetrievalLoss(model, LossTerms())(columns(), labels)
        expected = {"info_nce": info_nce_by_hand(queries, documents, 0.02)}
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    gated = RetrievalLoss(model, LossTerms(), gates=[model.gate])(columns())
    assert float(gated["gates"].detach()) == 0
    weighted = LossTerms(teacher_weight=1.0, gate_weight=1.0)
    found = RetrievalLoss(model, weighted, gates=[model.gate])(columns(), scores)
    divergence = divergence_by_hand(queries, documents, scores, 0.02, 1.0)
    torch.testing.assert_close(found["teacher"], divergence, atol=1e-6, rtol=0)
    surrogate = torch.sigmoid(5.0 * model.gate).sum()
    torch.testing.assert_close(found["gates"], surrogate, atol=1e-12, rtol=0)


def test_terms_are_named_and_checked_and_stay_as_they_are() -> None:
    with pytest.raises(TypeError, match="positional"):
        LossTerms(0.02)  # type: ignore[misc]
    with pytest.raises(ValueError, match="temperature"):
        LossTerms(temperature="hot")  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        LossTerms().beta = 1.0  # type: ignore[misc]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_similarities_are_followed_by_their_squares_over_pairs_of_texts(dtype) -> None:
    model, (column,) = Embeds(), columns(1, batch=5)
    teacher = torch.randn(5, 11, generator=torch.Generator().manual_seed(4)).to(dtype)
    loss = DistillationLoss(model, "similarities")([column], teacher)["similarities"]
    ours, theirs = unit(model(column)["sentence_embedding"]), unit(teacher.double())
    squares = [
        (ours[i] @ ours[j] - theirs[i] @ theirs[j]) ** 2
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    torch.testing.assert_close(loss.double(), torch.stack(squares).mean(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["fp64", "bf16"])
def test_distances_are_means_over_texts_and_not_over_dimensions(dtype) -> None:
    model, (column,) = Embeds(), columns(1, batch=4)
    teacher = torch.randn(4, 6, generator=torch.Generator().manual_seed(4)).to(dtype)
    loss = DistillationLoss(model, "vectors")([column], teacher)["vectors"]
    ours, theirs = unit(model(column)["sentence_embedding"]), unit(teacher.double())
    expected = (ours - theirs).square().sum() / 4
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, atol=1e-6, rtol=0)


def test_vectors_are_followed_by_the_squared_distance_of_unit_vectors() -> None:
    model, (column,) = Embeds(), columns(1)
    teacher = torch.randn(6, 6)
    loss = DistillationLoss(model, "vectors")([column], teacher)["vectors"]
    ours = model(column)["sentence_embedding"].float()
    cosine = torch.nn.functional.cosine_similarity(ours, teacher, dim=-1)
    assert torch.isclose(loss, (2 - 2 * cosine).mean(), atol=1e-6)
