"""What holds texts in an order is read in that order; what does not is refused with a way out."""

from __future__ import annotations

from collections import UserList, deque

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tiny import save_bare

from effir_integrations import encode_to_file, load
from effir_integrations.adapters.pyserini.encoders import EffirDocumentEncoder, EffirQueryEncoder
from effir_integrations.data.inputs import listed

TEXTS = ["w1 w2", "w3", "w4 w5 w6"]
# rows out of order, as a filter or a sort leaves them
SERIES = pd.Series([*TEXTS, "w9"], index=[5, 3, 9, 1])
TABLE = pa.table({"text": TEXTS, "title": TEXTS})
DATASET = datasets.Dataset.from_dict({"text": TEXTS})
HELD = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "deque": deque(TEXTS),
    "UserList": UserList(TEXTS),
    "keys": dict.fromkeys(TEXTS).keys(),
    "values": dict(enumerate(TEXTS)).values(),
    "pandas": SERIES[SERIES != "w9"],
    "pandas strings": pd.Series(TEXTS, dtype="string"),
    "pandas categories": pd.Series(TEXTS, dtype="category"),
    "pandas on Arrow": pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.string())),
    "pandas index": pd.Index(TEXTS),
    "Arrow": pa.array(TEXTS),
    "Arrow in chunks": TABLE["text"],
    "datasets": DATASET["text"],
    "numpy strings": np.array(TEXTS),
    "numpy objects": np.array(TEXTS, dtype=object),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load(save_bare("bert", tmp_path_factory.mktemp("inputs") / "bert"), device="cpu")


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(TEXTS)


@pytest.mark.parametrize("held", HELD)
def test_texts_are_encoded_in_the_order_of_what_holds_them(encoder, vectors, held):
    for method in (encoder.encode, encoder.encode_query, encoder.encode_document):
        np.testing.assert_allclose(method(HELD[held]), vectors, atol=1e-6)
    assert listed(HELD[held]) == TEXTS


def test_one_string_is_one_vector(encoder, vectors):
    for text in (TEXTS[0], np.str_(TEXTS[0]), np.array(TEXTS[0])):
        np.testing.assert_allclose(encoder.encode(text), vectors[0], atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "inputs is None"),
        (set(TEXTS), r"a set of 3 has no order .*sorted\(texts\), or list\(texts\)"),
        (frozenset(TEXTS), "a frozenset of 3 has no order"),
        ((text for text in TEXTS), r"a generator is read only once.*encode_stream\(texts\)"),
        (map(str, TEXTS), "a map is read only once"),
        (TABLE, r"table with the columns \['text', 'title'\]; give the one"),
        (TABLE.to_pandas(), r"DataFrame is a table with the columns \['text', 'title'\]"),
        (DATASET, r"Dataset is a table with the columns \['text'\]"),
        (pd.Series(["w1", None]), "text 1 of 2 is"),
        (pa.array(["w1", None]), "text 1 of 2 is NoneType"),
        (np.array([TEXTS]), "text 0 of 1 is list"),
        ({"text": "w1"}, "text 0 of 1 is dict"),
        (b"w1", "text 0 of 1 is bytes"),
        (range(2), "text 0 of 2 is int"),
    ],
)
def test_what_holds_no_texts_in_an_order_is_refused(encoder, inputs, message):
    with pytest.raises(ValueError, match=message) as error:
        encoder.encode(inputs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("held", HELD)
def test_a_stream_is_read_in_its_order(encoder, vectors, held):
    np.testing.assert_allclose(
        np.concatenate(list(encoder.encode_stream(HELD[held], window=2))), vectors, atol=1e-6
    )


NOT_STREAMS = [
    (None, "inputs is None"),
    ("w1 w2", "'w1 w2' is one str; give a list"),
    (set(TEXTS), "a set of 3 has no order"),
    (TABLE, r"table with the columns \['text', 'title'\]"),
    (DATASET, r"Dataset is a table with the columns \['text'\]"),
    ({"a": "w1"}, "is one dict; give a list"),
]


@pytest.mark.parametrize(("inputs", "message"), NOT_STREAMS)
def test_what_is_no_stream_of_texts_is_refused(encoder, tmp_path, inputs, message):
    with pytest.raises(ValueError, match=message):
        list(encoder.encode_stream(inputs))
    if not isinstance(inputs, str):  # the name of a file there
        with pytest.raises(ValueError, match=message):
            encode_to_file(encoder, inputs, tmp_path / "v.npy")
    assert not list(tmp_path.iterdir())


def test_an_encoder_of_pyserini_reads_what_encode_reads(encoder, vectors):
    documents, queries = EffirDocumentEncoder(encoder), EffirQueryEncoder(encoder)
    for held in ("pandas", "Arrow", "datasets"):
        np.testing.assert_allclose(documents.encode(HELD[held]), vectors, atol=1e-6)
        np.testing.assert_allclose(queries.encode_batch(HELD[held]), vectors, atol=1e-6)
    for call in (documents.encode, queries.encode_batch):
        with pytest.raises(ValueError, match="a set of 3 has no order"):
            call(set(TEXTS))
