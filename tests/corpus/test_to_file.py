"""A corpus becomes one file, whole or not at all, and a stopped run resumes where it stopped."""

from __future__ import annotations

import json
import os
import resource
import sys
from itertools import count
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tiny import save_bare

from effir_integrations import load
from effir_integrations.corpus.resume import work_folder
from effir_integrations.corpus.to_file import encode_to_file
from effir_integrations.encoder.encoder import transformer_model

ENDINGS = [".npy", ".parquet", ".jsonl"]
PAIRS = [(f"d{row}", " ".join(["w1", f"w{row % 50}"] * (1 + row % 5))) for row in range(25)]
TEXTS = [text for _, text in PAIRS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_bare("bert", tmp_path_factory.mktemp("base") / "tiny-bert")


@pytest.fixture(scope="module")
def encoder(folder):
    return load(folder, device="cpu")


def read_back(out):
    """Return ids and vectors of a file of any kind, read as its users read it."""
    if out.suffix == ".npy":
        ids = out.with_suffix(".ids.txt").read_text(encoding="utf-8").splitlines()
        return ids, np.load(out, mmap_mode="r")
    if out.suffix == ".parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    else:
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
    return [row["docid"] for row in rows], vectors


def stopping(pairs, after):
    """Yield some pairs, then fail as a broken source would."""
    yield from pairs[:after]
    raise KeyboardInterrupt


def stop(encoder, out, pairs=PAIRS, *, after=20, window=8, **options):
    """Leave an unfinished run behind."""
    with pytest.raises(KeyboardInterrupt):
        encode_to_file(encoder, stopping(pairs, after), out, window=window, **options)
    assert work_folder(out).is_dir()
    return out


def names(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_holds_the_vectors_of_encode(encoder, ending, tmp_path):
    out = tmp_path / f"vectors{ending}"
    result = encode_to_file(encoder, iter(PAIRS), out, window=100)
    ids, vectors = read_back(out)
    assert ids == [identifier for identifier, _ in PAIRS]
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, encoder.encode(TEXTS))
    assert (result.rows, result.dimension, result.resumed_from) == (25, 32, 0)
    assert result.path == out
    assert result.tokens is None or result.tokens > 25
    assert result.texts_per_second > 0
    assert names(tmp_path) == names_of(out)


def test_options_reach_the_encoder(encoder, tmp_path):
    options = {"prompt": "w7 w8", "normalize_embeddings": True, "truncate_dim": 5}
    encode_to_file(encoder, PAIRS, tmp_path / "v.npy", **options)
    _, vectors = read_back(tmp_path / "v.npy")
    assert np.array_equal(vectors, encoder.encode(TEXTS, **options))
    assert vectors.shape == (25, 5)
    assert not np.array_equal(vectors, encoder.encode(TEXTS)[:, :5])


def test_no_prompt_is_the_default_prompt_of_the_model(folder, tmp_path):
    encoder = load(folder, device="cpu", prompts={"query": "w9 w9"})
    encoder.default_prompt_name = "query"
    encode_to_file(encoder, PAIRS, tmp_path / "a.npy")
    encode_to_file(encoder, PAIRS, tmp_path / "b.npy", prompt="")
    a, b = (read_back(tmp_path / name)[1] for name in ("a.npy", "b.npy"))
    assert np.array_equal(a, encoder.encode(TEXTS))
    assert np.array_equal(b, encoder.encode(TEXTS, prompt=""))
    assert not np.allclose(a, b)


def test_a_stock_sentence_transformer_will_do(encoder, tmp_path):
    encoder.save_pretrained(str(tmp_path / "model"))
    stock = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    result = encode_to_file(stock, PAIRS, tmp_path / "v.npy")
    assert np.array_equal(read_back(result.path)[1], stock.encode(TEXTS))
    assert result.tokens is None


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_corpus_file_is_read_with_titles_and_odd_texts(encoder, ending, tmp_path):
    path = tmp_path / f"corpus{ending}"
    texts = ["w1 w2", "", "w3 " * 100, "é w5"]
    records = [{"_id": f"d{row}", "title": "w9", "text": text} for row, text in enumerate(texts)]
    if ending == ".jsonl":
        records.append({"_id": "d4", "title": "", "text": "\ud800 w5 \udc00"})
        path.write_text("".join(json.dumps(record) + "\n\n" for record in records))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(records), path)
    encode_to_file(encoder, path, tmp_path / "v.npy", window=2)
    ids, vectors = read_back(tmp_path / "v.npy")
    assert ids == [record["_id"] for record in records]
    whole = [f"{record['title']} {record['text']}".strip() for record in records]
    assert np.allclose(vectors, encoder.encode(whole), atol=1e-6)


def test_lone_surrogates_and_empty_texts_are_encoded(encoder, tmp_path):
    pairs = [("a", ""), ("b", "\ud800"), ("c", "w1 \udfff w2"), ("d", " ")]
    encode_to_file(encoder, pairs, tmp_path / "v.jsonl", window=2)
    assert np.isfinite(read_back(tmp_path / "v.jsonl")[1]).all()
    stop(encoder, tmp_path / "w.jsonl", pairs, after=3, window=2)
    assert encode_to_file(encoder, pairs, tmp_path / "w.jsonl", window=2).resumed_from == 2


def test_ids_of_all_alphabets_come_back(encoder, tmp_path):
    ids = ["ü/é", "中文", "a b", '"quoted"', "\\n", "1"]
    for ending in ENDINGS:
        encode_to_file(encoder, [(x, "w1") for x in ids], tmp_path / f"v{ending}", window=4)
        assert read_back(tmp_path / f"v{ending}")[0] == ids


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_id_that_repeats_is_written_twice_and_said(encoder, ending, tmp_path, caplog):
    ids = ["a", "b", "a", "c", "b", "a"]
    out = tmp_path / f"v{ending}"
    result = encode_to_file(encoder, [(x, f"w{i}") for i, x in enumerate(ids)], out, window=2)
    assert (read_back(out)[0], result.rows, result.repeated_ids) == (ids, 6, 3)
    (record,) = caplog.records
    assert "3 of 6 texts have the id of an earlier one, such as 'a'" in record.getMessage()
    assert names(tmp_path) == names_of(out)


def names_of(out):
    ids = [f"{out.stem}.ids.txt"] if out.suffix == ".npy" else []
    return sorted([out.name, f"{out.name}.effir", *ids])


def test_ids_that_are_unique_are_written_without_a_word(encoder, tmp_path, caplog):
    assert encode_to_file(encoder, PAIRS, tmp_path / "v.npy", window=4).repeated_ids == 0
    assert not caplog.records


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stopped_run_goes_on_and_gives_the_same_bytes(encoder, ending, tmp_path):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = tmp_path / "whole" / f"v{ending}"
    encode_to_file(encoder, PAIRS, whole, window=8)
    out = tmp_path / "stopped" / f"v{ending}"
    stop(encoder, out, after=10)
    assert not out.exists()
    stop(encoder, out, after=20)
    result = encode_to_file(encoder, iter(PAIRS), out, window=8)
    assert (result.resumed_from, result.rows) == (16, 25)
    assert names(out.parent) == names(whole.parent)
    for name in names(whole.parent):
        assert (out.parent / name).read_bytes() == (whole.parent / name).read_bytes()


def test_a_run_killed_before_any_step_leaves_no_half_file_and_goes_on(folder, tmp_path):
    pytest.importorskip("pyarrow")
    script = Path(__file__).with_name("kill_anywhere.py")
    result = fresh.run([script, folder, tmp_path])
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    cases = {(x["ending"], x["force"]) for x in found}
    assert {ending for ending, _ in cases} == set(ENDINGS)
    for case in cases:
        seen = [x for x in found if (x["ending"], x["force"]) == case]
        # all that a kill leaves behind came up: nothing, one window, everything
        assert {x["resumed"] for x in seen} == {0, 4, 6}
    for seen in found:
        assert seen["same_bytes"], seen
        assert seen["old"] or seen["whole"], seen


def test_a_forced_run_that_was_stopped_goes_on_without_force(encoder, tmp_path):
    out = tmp_path / "v.npy"
    encode_to_file(encoder, PAIRS[:3], out)
    old = out.read_bytes()
    with pytest.raises(FileExistsError, match=r"v\.npy exists; .* \(--force\)"):
        encode_to_file(encoder, PAIRS, out, window=8)
    stop(encoder, out, force=True)
    assert out.read_bytes() == old
    assert encode_to_file(encoder, PAIRS, out, window=8).resumed_from == 16
    assert len(read_back(out)[0]) == len(np.load(out)) == 25


def test_force_starts_anew(encoder, tmp_path):
    out = stop(encoder, tmp_path / "v.npy")
    other = [(identifier, "w3") for identifier, _ in PAIRS[:5]]
    assert encode_to_file(encoder, other, out, force=True).resumed_from == 0
    assert np.array_equal(read_back(out)[1], encoder.encode(["w3"] * 5))


OTHER_SETTINGS = {
    "prompt": ("w5", "prompt ''"),
    "normalize_embeddings": (True, "normalize_embeddings False, not True"),
    "truncate_dim": (7, "truncate_dim None, not 7"),
    "window": (9, "window 8, not 9"),
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_other_settings_are_refused(encoder, name, tmp_path):
    out = stop(encoder, tmp_path / "v.npy")
    value, message = OTHER_SETTINGS[name]
    with pytest.raises(ValueError, match=message) as refused:
        encode_to_file(encoder, PAIRS, out, **{"window": 8, name: value})
    assert "16 vectors" in str(refused.value)
    assert "--force" in str(refused.value)
    assert encode_to_file(encoder, PAIRS, out, window=8).resumed_from == 16


def test_another_length_precision_or_model_is_refused(encoder, folder, tmp_path):
    out = stop(encoder, tmp_path / "v.npy")

    def refusal(**options):
        with pytest.raises(ValueError, match="--force") as refused:
            encode_to_file(load(folder, device="cpu", **options), PAIRS, out, window=8)
        return str(refused.value)

    assert "max_seq_length (--max-length) 32, not 9" in refusal(max_length=9)
    assert "['torch.float32'], not ['torch.bfloat16']" in refusal(dtype="bf16")
    assert "of another model" in refusal(pooling="cls")
    changed = load(folder, device="cpu")
    with torch.no_grad():
        next(transformer_model(changed).parameters())[3, 4] += 0.01
    with pytest.raises(ValueError, match="16 vectors of another model"):
        encode_to_file(changed, PAIRS, out, window=8)
    other = save_bare("bert", tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=rf"16 vectors of {folder}, not of {other}; give that"):
        encode_to_file(other, PAIRS, out, window=8)
    assert encode_to_file(encoder, PAIRS, out, window=8).resumed_from == 16


@pytest.mark.parametrize(
    "changed",
    [
        [("d0", "other text"), *PAIRS[1:]],
        [("other", PAIRS[0][1]), *PAIRS[1:]],
        [*PAIRS[:15], ("d15", "other text"), *PAIRS[16:]],
        PAIRS[:15],
        PAIRS[1:],
    ],
    ids=["text", "id", "last", "shorter", "shifted"],
)
def test_another_corpus_is_refused(encoder, changed, tmp_path):
    out = stop(encoder, tmp_path / "v.npy")
    with pytest.raises(ValueError, match="the texts: these are not the texts whose first 16 vec"):
        encode_to_file(encoder, changed, out, window=8)
    assert encode_to_file(encoder, PAIRS, out, window=8).resumed_from == 16


def test_a_later_part_of_the_corpus_may_be_mended(encoder, tmp_path):
    out = stop(encoder, tmp_path / "v.npy")
    mended = [*PAIRS[:16], ("new", "w1"), *PAIRS[16:]]
    encode_to_file(encoder, mended, out, window=8)
    assert read_back(out)[0] == [identifier for identifier, _ in mended]


def test_a_bad_line_is_named_and_can_be_mended(encoder, tmp_path):
    corpus, out = tmp_path / "corpus.jsonl", tmp_path / "v.npy"
    lines = [json.dumps({"_id": x, "text": text}) for x, text in PAIRS]
    corpus.write_text("\n".join([*lines[:19], '{"_id": "bad", "text": 7}', *lines[19:]]))
    with pytest.raises(ValueError, match=r"corpus\.jsonl line 20: 'bad' has no text \(found int"):
        encode_to_file(encoder, corpus, out, window=8)
    corpus.write_text("\n".join(lines))
    assert encode_to_file(encoder, corpus, out, window=8).resumed_from == 16


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("a", 3)], r"the texts, text 1: its text is int \(3\); give a string"),
        ([("a", "w1"), (2, "w1")], "the texts, text 2: its id is int"),
        ([("a", None)], "its text is NoneType"),
        ([{"a": 1}], r"text 1: found dict .*; give texts, or pairs \(id, text\)"),
        ([("", "w1")], "text 1: the id is empty"),
        ([("a\nb", "w1")], r"the id 'a\\nb' holds a line break"),
        ([], "the texts: there is no text"),
    ],
)
def test_bad_pairs_are_refused_and_leave_nothing(encoder, pairs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        encode_to_file(encoder, pairs, tmp_path / "v.npy")
    assert names(tmp_path) == []


def test_bad_files_are_refused(encoder, tmp_path):
    good = tmp_path / "good.jsonl"
    good.write_text('{"_id": "a", "text": "w1"}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "broken.parquet").write_text("no Parquet")

    def refusal(kind, texts, out):
        with pytest.raises(kind) as refused:
            encode_to_file(encoder, texts, tmp_path / out)
        return str(refused.value)

    assert "written to .npy, .parquet, .jsonl" in refusal(ValueError, good, "v.csv")
    assert "written to .npy, .parquet, .jsonl" in refusal(ValueError, good, "v")
    assert "nothing is there" in refusal(FileNotFoundError, tmp_path / "no.jsonl", "v.npy")
    assert "ends in .jsonl or .parquet" in refusal(ValueError, tmp_path / "x.txt", "v.npy")
    assert "holds no text" in refusal(ValueError, str(tmp_path / "empty.jsonl"), "v.npy")
    if pytest.importorskip("pyarrow"):
        broken = tmp_path / "broken.parquet"
        assert "cannot be read as Parquet" in refusal(ValueError, broken, "v.npy")
    (tmp_path / "v.ids.txt").write_text("mine")
    assert "v.ids.txt exists" in refusal(FileExistsError, good, "v.npy")
    assert (tmp_path / "v.ids.txt").read_text() == "mine"
    (tmp_path / "folder.npy").mkdir()
    assert "is a folder" in refusal(FileExistsError, good, "folder.npy")
    with pytest.raises(ValueError, match="window=0 must be from 1 to 65536"):
        encode_to_file(encoder, good, tmp_path / "w.npy", window=0)


def test_a_missing_pyarrow_is_named(encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "effir-integrations\[eval\]"'):
        encode_to_file(encoder, PAIRS, tmp_path / "v.parquet")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("limit", [3000, 3300], ids=["vectors", "end"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(encoder, ending, limit, tmp_path):
    """A file-size limit stops the second window, or the file that is made at the end."""
    out = tmp_path / f"v{ending}"
    if limit == 3300 and ending != ".jsonl":
        pytest.skip("only JSON Lines are larger than the raw vectors")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="the disk is full") as full:
            encode_to_file(encoder, PAIRS, out, window=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    rows = {3000: 16, 3300: 24}[limit]
    assert f"{rows} texts are kept" in str(full.value)
    assert "\n" not in str(full.value)
    assert names(tmp_path) == [work_folder(out).name]
    assert encode_to_file(encoder, PAIRS, out, window=8).resumed_from == rows
    assert np.array_equal(read_back(out)[0], [identifier for identifier, _ in PAIRS])


def test_a_corpus_that_the_disk_cannot_hold_is_refused_at_once(encoder, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"_id": x, "text": y}) + "\n" for x, y in PAIRS))
    usage = type("Usage", (), {"free": 3000})
    monkeypatch.setattr("effir_integrations.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="are needed but only"):
        encode_to_file(encoder, corpus, tmp_path / "v.npy")
    assert names(tmp_path) == ["corpus.jsonl"]


def test_a_vector_that_is_not_finite_is_an_error(folder, tmp_path):
    encoder = load(folder, device="cpu")
    with torch.no_grad():
        transformer_model(encoder).embeddings.word_embeddings.weight[-1] = float("nan")
    word = encoder.tokenizer.convert_ids_to_tokens(63)
    with pytest.raises(RuntimeError, match="the vector of 'b' is not finite"):
        encode_to_file(encoder, [("a", "w1"), ("b", word)], tmp_path / "v.npy")
    assert names(tmp_path) == []


def test_two_runs_for_one_file_do_not_mix(encoder, tmp_path):
    out = tmp_path / "v.npy"

    def pairs():
        yield from PAIRS[:9]
        with pytest.raises(ValueError, match="being written by another process"):
            encode_to_file(encoder, PAIRS, out, window=8, force=True)
        yield from PAIRS[9:]

    encode_to_file(encoder, pairs(), out, window=8)
    assert np.allclose(read_back(out)[1], encoder.encode(TEXTS), atol=1e-6)


def test_texts_are_read_a_window_at_a_time(encoder, tmp_path):
    read = count()
    seen = []

    def pairs():
        for pair in PAIRS:
            next(read)
            folder = work_folder(tmp_path / "v.npy")
            state = folder / "state.json"
            seen.append(json.loads(state.read_text())["rows"] if state.is_file() else 0)
            yield pair

    encode_to_file(encoder, pairs(), tmp_path / "v.npy", window=8)
    # when text n is asked for, all windows before its own are on the disk
    assert seen == [row // 8 * 8 for row in range(25)]


def test_pooling_without_weights_counts_as_another_model(folder):
    assert load(folder, device="cpu")[1].pooling_mode == "mean"
    assert isinstance(load(folder, device="cpu", pooling="cls")[1], Pooling)
