"""Ask one model folder the same questions through several libraries."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.lazy_encoder import LazyEncoder
from ..extras import import_extra

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

QUESTIONS = (
    "What removes a whole directory tree?",
    "How do I make a temporary file that is deleted when it is closed?",
    "How do I run a function in another thread and get its result later?",
)
"""What a person would ask of Python's library."""
ANSWERS = 3
"""Documents that are shown for each question."""
SHOWN = 44
"""Characters of a text that a table shows, at most."""
PRECISION = "fp32"
"""In every library, so that none answers differently for its rounding."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A document that was found."""

    name: str
    """Its id, a name in Python's library."""
    text: str
    """The first line of its text."""
    score: float
    """Its similarity to the question."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What the libraries answered to one question."""

    question: str
    """As it was asked."""
    answers: Mapping[str, tuple[Answer, ...]]
    """Library -> its answers, best first."""

    @property
    def agree(self) -> bool:
        """Whether all libraries give the same documents in the same order."""
        return len({tuple(x.name for x in found) for found in self.answers.values()}) == 1


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The answers to all questions."""

    questions: tuple[Answered, ...]
    """In the order they were asked."""
    missing: Mapping[str, str]
    """Library that was not asked -> why, and which extra installs it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        questions = [{**asdict(x), "agree": x.agree} for x in self.questions]
        return {"questions": questions, "missing": dict(self.missing)}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What each library is given."""

    folder: Path
    """Of the model."""
    documents: Mapping[str, str]
    """Id -> text."""
    questions: Sequence[str]
    """What to look for."""
    work: Path
    """Folder for an index."""
    show_progress: bool
    """Draw bars over long steps."""

    @property
    def count(self) -> int:
        """How many answers to give to a question."""
        return min(ANSWERS, len(self.documents))


Found = list[list[tuple[str, float]]]
"""For each question, ids and scores, best first."""


def ask(
    folder: Path,
    documents: Mapping[str, str],
    work: Path,
    questions: Sequence[str] = QUESTIONS,
    *,
    show_progress: bool = False,
) -> Asked:
    """Index documents and put questions through each library that is installed.

    Each encodes the documents in its own way, from the same folder.

    Args:
        folder: Of a model, pruned or not.
        documents: Id -> text, which begins with the id.
        work: Folder for what the libraries write.
        questions: What to ask.
        show_progress: Draw bars over long steps.

    Raises:
        FileNotFoundError: There is no such model folder.
        ValueError: There is no document or no question.
    """
    if not documents or not questions:
        raise ValueError(
            f"{len(documents)} documents and {len(questions)} questions; give at least one of each"
        )
    work.mkdir(parents=True, exist_ok=True)
    task = Task(
        folder=folder,
        documents=documents,
        questions=questions,
        work=work,
        show_progress=show_progress,
    )
    found: dict[str, Found] = {}
    missing = {}
    for library, search in LIBRARIES.items():
        try:
            found[library] = search(task)
        except ImportError as error:
            missing[library] = " ".join(str(error).split())
    answered = [
        Answered(
            question=question,
            answers={
                library: tuple(_answer(task, *pair) for pair in each[place])
                for library, each in found.items()
            },
        )
        for place, question in enumerate(questions)
    ]
    return Asked(questions=tuple(answered), missing=missing)


def _answer(task: Task, name: str, score: float) -> Answer:
    lines = task.documents[name].removeprefix(name).strip().splitlines()
    return Answer(name=name, text=lines[0] if lines else "", score=score)


def by_sentence_transformers(task: Task) -> Found:
    """Search with the stock class and the model's own similarity."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(task.folder), model_kwargs={"dtype": torch.float32})
    names, texts = list(task.documents), list(task.documents.values())
    vectors = model.encode_document(
        texts, convert_to_tensor=True, show_progress_bar=task.show_progress
    )
    queries = model.encode_query(
        list(task.questions), convert_to_tensor=True, show_progress_bar=False
    )
    best = model.similarity(queries, vectors).topk(task.count)
    return [
        [(names[row], score) for row, score in zip(rows, scores, strict=True)]
        for rows, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def by_pyserini(task: Task) -> Found:
    """Write an index without Java, and search it with Pyserini's `FaissSearcher`."""
    import_extra("pyserini", "pyserini")
    from ..pyserini import EffirQueryEncoder, export_to_pyserini, register

    encoder = LazyEncoder(task.folder, precision=PRECISION)
    index = task.work / "pyserini"
    export_to_pyserini(encoder, task.documents, index, force=True, show_progress=task.show_progress)
    # Pyserini and Java write to standard output, which is for the result alone
    with _outputs_to(task.work / "pyserini.log"):
        register()
        from pyserini.search.faiss import FaissSearcher

        searcher = FaissSearcher(str(index), EffirQueryEncoder(encoder))
        found = [searcher.search(question, k=task.count) for question in task.questions]
    return [[(hit.docid, float(hit.score)) for hit in hits] for hits in found]


@contextmanager
def _outputs_to(path: Path) -> Iterator[None]:
    """Send what Python and Java write to standard output and error to a file."""
    streams = {1: sys.stdout, 2: sys.stderr}
    kept = {}
    with path.open("w", encoding="utf-8") as log:
        for number, stream in streams.items():
            stream.flush()
            kept[number] = os.dup(number)
            os.dup2(log.fileno(), number)
        try:
            yield
        finally:
            for number, copy in kept.items():
                streams[number].flush()
                os.dup2(copy, number)
                os.close(copy)


def by_llama_index(task: Task) -> Found:
    """Make a `VectorStoreIndex` of one node a document, on a flat FAISS index."""
    from ..adapters.llama_index import EffirEmbedding

    faiss = import_extra("faiss", "llama-index")
    stores = import_extra("llama_index.vector_stores.faiss", "llama-index")
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.schema import TextNode

    embedding = EffirEmbedding(model_name=str(task.folder), precision=PRECISION)
    store = stores.FaissVectorStore(faiss.IndexFlatIP(embedding.dimension))
    index = VectorStoreIndex(
        [TextNode(id_=name, text=text) for name, text in task.documents.items()],
        embed_model=embedding,
        storage_context=StorageContext.from_defaults(vector_store=store),
        show_progress=task.show_progress,
    )
    retriever = index.as_retriever(similarity_top_k=task.count)
    return [
        [(hit.node.node_id, float(hit.get_score())) for hit in retriever.retrieve(question)]
        for question in task.questions
    ]


LIBRARIES: dict[str, Callable[[Task], Found]] = {
    "Sentence Transformers": by_sentence_transformers,
    "Pyserini": by_pyserini,
    "LlamaIndex": by_llama_index,
}


def answers_table(asked: Asked) -> Group:
    """Lay out the answers, library by library, with a line that says whether they agree."""
    from rich.console import Group
    from rich.text import Text

    parts = [_question_table(answered) for answered in asked.questions]
    notes = [Text(f"{library} was not asked: {why}") for library, why in asked.missing.items()]
    return Group(*parts, *notes)


def _question_table(answered: Answered) -> Table:
    from rich.markup import escape
    from rich.table import Table

    caption: str | None = "not the same answers in all of them"
    if len(answered.answers) == 1:
        caption = None
    elif answered.agree:
        caption = f"the same answers in {', '.join(answered.answers)}"
    table = Table(
        title=escape(answered.question), caption=caption, title_justify="left", min_width=100
    )
    for heading in ("library", "answer", "its text"):
        table.add_column(heading, overflow="fold")
    for library, found in answered.answers.items():
        for place, answer in enumerate(found):
            text = escape(textwrap.shorten(answer.text, SHOWN, placeholder=" ..."))
            last = place == len(found) - 1
            table.add_row("" if place else library, escape(answer.name), text, end_section=last)
    return table
