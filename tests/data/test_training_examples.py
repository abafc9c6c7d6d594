from __future__ import annotations

import json
import math
import pickle
import sys
from pathlib import Path

import fresh
import pytest
from tiny import tiny_tokenizer

from effir_integrations.data.training_examples import TrainingData, load_training

datasets = pytest.importorskip("datasets")

ROW = {"query": "q", "pos": ["p0", "p1", "p2"], "neg": ["n0", "n1", "n2", "n3", "n4"]}
SCORES = {"pos_scores": [10, 11, 12], "neg_scores": [0, 1.5, 2, 3, 4]}


def changed(**changes):
    return {**ROW, **SCORES, **changes}


@pytest.fixture
def write(tmp_path):
    def write_lines(*rows, name="train.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write_lines


def write_beir(folder: Path, qrels: list[str], split: str = "train") -> Path:
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": f"T{i}", "text": f"text {i}"} for i in range(4)]
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(3)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    lines = "\n".join(["query-id\tcorpus-id\tscore", *qrels])
    (folder / "qrels" / f"{split}.tsv").write_text(lines)
    return folder


# What an example is


def test_the_columns_are_query_positive_negatives_and_label_only_if_scored():
    plain = load_training([changed()], negatives=2)
    scored = load_training([changed()], negatives=2, scored=True)

    assert plain.dataset.column_names == ["query", "positive", "negative_1", "negative_2"]
    assert scored.dataset.column_names == [*plain.dataset.column_names, "label"]
    assert (plain.negatives, plain.scored, len(plain)) == (2, False, 1)
    assert scored.scored
    assert plain.source == "rows"


def test_scores_follow_their_passages():
    rows = [changed(query=f"q{i}") for i in range(30)]
    loaded = load_training(rows, negatives=3, scored=True)
    score_of = dict(zip(ROW["pos"] + ROW["neg"], [10, 11, 12, 0, 1.5, 2, 3, 4], strict=True))
    positives = set()
    for example in loaded.dataset:
        passages = [example[name] for name in loaded.dataset.column_names[1:-1]]
        assert example["label"] == [score_of[passage] for passage in passages]
        assert passages[1:] == sorted(set(passages[1:]))
        assert len(passages) == 4
        positives.add(example["positive"])
    assert positives == set(ROW["pos"])


def test_the_draw_depends_on_seed_and_line_number_alone():
    rows = [changed(query=f"q{i}") for i in range(20)]
    loaded = load_training(rows, negatives=2)
    again = load_training(rows, negatives=2)
    other = load_training(rows, negatives=2, seed=1)
    swapped = load_training([changed(query="x"), *rows[1:]], negatives=2)

    assert loaded.dataset[:] == again.dataset[:]
    assert loaded.sha256 == again.sha256 != other.sha256
    assert loaded.dataset["negative_1"] != other.dataset["negative_1"]
    for column in ("positive", "negative_1", "negative_2"):
        assert list(swapped.dataset[column]) == list(loaded.dataset[column])
    assert swapped.sha256 != loaded.sha256


def test_a_cut_takes_the_first_lines_and_draws_them_alike():
    rows = [changed(query=f"q{i}") for i in range(9)]
    whole, cut = load_training(rows, negatives=2), load_training(rows, negatives=2, limit=4)

    assert len(cut) == 4
    assert cut.dataset[:] == whole.dataset[:4]
    # What is behind the cut is not looked at.
    assert len(load_training([*rows[:4], {"query": ""}], negatives=2, limit=4)) == 4


def test_the_hash_tells_where_a_text_ends():
    first = load_training([{"query": "ab", "pos": ["c"]}], negatives=0)
    second = load_training([{"query": "a", "pos": ["bc"]}], negatives=0)

    assert first.sha256 != second.sha256


def test_no_negatives_need_none_in_the_file():
    loaded = load_training([{"query": "q", "pos": ["p"], "pos_scores": [2]}], negatives=0)

    assert loaded.dataset[0] == {"query": "q", "positive": "p"}
    scored = load_training(
        [{"query": "q", "pos": ["p"], "pos_scores": [2]}], negatives=0, scored=True
    )
    assert scored.dataset[0]["label"] == [2.0]


def test_prompts_go_in_front_and_that_of_a_line_goes_before_that_of_all():
    rows = [ROW, {**ROW, "prompt": "own: "}, {**ROW, "prompt": ""}, {**ROW, "prompt": None}]
    loaded = load_training(rows, negatives=1, query_prompt="q: ", document_prompt="d: ")

    assert list(loaded.dataset["query"]) == ["q: q", "own: q", "q", "q: q"]
    for column in ("positive", "negative_1"):
        assert all(text.startswith("d: ") for text in loaded.dataset[column])


def test_a_negative_that_is_also_a_positive_is_never_drawn():
    row = {"query": "q", "pos": ["p"], "neg": ["p", "n0", "p", "n1"]}
    loaded = load_training([row] * 20, negatives=2)

    assert set(loaded.dataset["negative_1"]) == {"n0"}
    assert set(loaded.dataset["negative_2"]) == {"n1"}
    with pytest.raises(ValueError, match=r"has 2 negatives \(and 2 that are also positives\)"):
        load_training([row], negatives=3)


def test_scores_are_ignored_unless_asked_for():
    row = changed(pos_scores="nonsense", neg_scores=[1])

    assert load_training([row], negatives=1).dataset.column_names[-1] == "negative_1"


def test_lone_surrogates_are_replaced(write):
    path = write('{"query": "a\\ud800b", "pos": ["\\ud83d\\ude00"], "neg": []}')

    example = load_training(path, negatives=0).dataset[0]

    assert example == {"query": "a\ufffdb", "positive": "\U0001f600"}


# Sources


def test_a_file_and_its_rows_in_memory_give_the_same_examples(write):
    rows = [changed(query=f"q{i}") for i in range(5)]
    path = write(*rows)
    loaded = load_training(path, negatives=3, scored=True)

    assert loaded.source == str(path)
    assert loaded.sha256 == load_training(rows, negatives=3, scored=True).sha256


def test_tevatron_passages_are_titles_and_texts(write):
    row = {
        "query_id": "1",
        "query": "q",
        "positive_passages": [{"docid": "1", "title": "T", "text": "one"}],
        "negative_passages": [
            {"docid": "2", "title": "", "text": "two"},
            {"docid": "3", "text": "three"},
        ],
    }
    for source in (write(row), [row]):
        example = load_training(source, negatives=2).dataset[0]
        assert list(example.values()) == ["q", "T one", "two", "three"]


def test_a_datasets_folder_is_read_by_name(tmp_path):
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    rows = [{"query": "q", "pos": ["p"], "neg": ["n"], "prompt": None}]
    datasets.Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    dev = [{**rows[0], "query": "dev"}]
    datasets.Dataset.from_list(dev).to_parquet(folder / "validation.parquet")

    loaded = load_training(str(folder), negatives=1, cache_dir=tmp_path / "cache")

    assert loaded.dataset[0] == {"query": "q", "positive": "p", "negative_1": "n"}
    # Nothing says whether such a source changed, so its file is never found again.
    datasets.Dataset.from_list(dev).to_parquet(folder / "train.parquet")
    again = load_training(str(folder), negatives=1, cache_dir=tmp_path / "cache")
    assert again.dataset[0]["query"] == "dev"


def test_config_and_split_are_read_from_the_name(tmp_path, monkeypatch):
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [{"query": split, "pos": ["p"], "neg": ["n"]}]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}.parquet")
    monkeypatch.chdir(tmp_path)

    assert load_training("owner/name", negatives=1).dataset[0]["query"] == "train"
    loaded = load_training("owner/name::validation", negatives=1)
    assert loaded.dataset[0]["query"] == "validation"
    with pytest.raises(ValueError, match="names the column 'query'.*leave #COLUMN out"):
        load_training("owner/name#query")
    with pytest.raises(ValueError, match="datasets refuses config=None, split='nope'"):
        load_training("owner/name::nope")


def test_a_name_is_not_looked_up_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="no/name: .* cannot reach the Hub") as raised:
        load_training("no/name")
    assert "\n" not in str(raised.value)


def test_a_beir_folder_gives_its_train_judgements_without_negatives(tmp_path, caplog):
    folder = write_beir(tmp_path / "b", ["q1\td2\t1", "q1\td3\t0", "q0\td1\t2", "q2\td0\t0"])
    write_beir(tmp_path / "other", ["q2\td0\t1"], split="test")
    (tmp_path / "other" / "qrels" / "test.tsv").rename(folder / "qrels" / "test.tsv")

    loaded = load_training(folder, negatives=0)

    assert list(loaded.dataset["query"]) == ["query 1", "query 0"]
    assert list(loaded.dataset["positive"]) == ["T2 text 2", "T1 text 1"]
    assert "1 queries have no relevant document: left out" in caplog.text


def test_judgements_of_what_is_not_in_a_beir_folder_train_nothing(tmp_path, caplog):
    lines = ["q1\td2\t1", "q1\tgone\t1", "q0\tgone\t1", "absent\td1\t1"]

    loaded = load_training(write_beir(tmp_path / "b", lines), negatives=0)

    assert list(loaded.dataset["query"]) == ["query 1"]
    assert list(loaded.dataset["positive"]) == ["T2 text 2"]
    assert "2 judgements name documents that are not in the corpus" in caplog.text
    assert "1 queries have no relevant document: left out" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "has no negatives, but negatives=7; run `effir mine MODEL .* or set --negatives 0"),
        ({"negatives": 0, "scored": True}, "has no scores; run `effir mine MODEL"),
    ],
)
def test_a_beir_folder_has_neither_negatives_nor_scores(tmp_path, options, message):
    folder = write_beir(tmp_path / "b", ["q1\td2\t1"])
    with pytest.raises(ValueError, match=message):
        load_training(folder, **options)


def test_a_beir_folder_without_train_judgements_names_the_splits(tmp_path):
    folder = write_beir(tmp_path / "b", ["q1\td2\t1"], split="test")
    with pytest.raises(FileNotFoundError, match="no judgements for split 'train'; there are: test"):
        load_training(folder, negatives=0)


# The file on disk


def test_a_changed_file_is_read_anew_and_an_unchanged_one_is_found_again(write, tmp_path):
    cache = tmp_path / "cache"
    path = write({"query": "old", "pos": ["p"]})
    first = load_training(path, negatives=0, cache_dir=cache)
    again = load_training(path, negatives=0, cache_dir=cache)
    write({"query": "new", "pos": ["p"]})
    after = load_training(path, negatives=0, cache_dir=cache)

    assert first.dataset.cache_files == again.dataset.cache_files
    assert first.dataset.cache_files[0]["filename"].startswith(str(cache))
    assert (first.dataset[0]["query"], after.dataset[0]["query"]) == ("old", "new")


@pytest.mark.parametrize(
    "options",
    [{"seed": 1}, {"query_prompt": "q: "}, {"document_prompt": "d: "}, {"limit": 7}],
)
def test_other_options_are_never_answered_from_the_cache(write, tmp_path, options):
    path = write(*[changed(query=f"q{i}") for i in range(8)])
    shared = {"negatives": 2, "cache_dir": tmp_path / "cache"}

    before = load_training(path, **shared)
    after = load_training(path, **shared, **options)

    assert after.sha256 != before.sha256
    assert after.sha256 == load_training(path, negatives=2, **options).sha256


def test_the_length_of_queries_is_checked_on_a_cached_file_as_well(write, tmp_path):
    path = write({"query": "w1 w2 w3", "pos": ["p"]})
    shared = {"negatives": 0, "cache_dir": tmp_path, "tokenizer": tiny_tokenizer()}
    load_training(path, **shared, max_query_tokens=4)

    with pytest.raises(ValueError, match="its query has 4 tokens"):
        load_training(path, **shared, max_query_tokens=3)


def test_examples_are_mapped_from_disk_and_can_be_sent_to_a_worker(write):
    loaded = load_training(write(changed()), negatives=2)

    assert loaded.dataset.cache_files
    assert pickle.loads(pickle.dumps(loaded.dataset))[:] == loaded.dataset[:]


def test_the_temporary_file_goes_with_the_process(write, tmp_path):
    path = write(changed())
    code = (
        "import sys; from effir_integrations.data.training_examples import load_training\n"
        "print(load_training(sys.argv[1], negatives=1).dataset.cache_files[0]['filename'])"
    )
    result = fresh.run(["-c", code, path], check=True)

    written = Path(result.stdout.strip())
    assert "effir-training-" in str(written)
    assert not written.exists()
    assert not [x for x in written.parents if x.name.startswith("effir-training-") and x.exists()]
    assert "Generating" not in result.stderr


def test_the_bars_of_datasets_are_left_as_they_were(write):
    assert not datasets.are_progress_bars_disabled()
    load_training(write(changed()), negatives=1)
    assert not datasets.are_progress_bars_disabled()
    with pytest.raises(ValueError, match="blank"):
        load_training([changed(query=" ")])
    assert not datasets.are_progress_bars_disabled()


# Bad input


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(pos=[], pos_scores=[]), "has no positive passage; give each query at least one"),
        (changed(pos="p"), "its 'pos' is 'p', not a list of strings"),
        (changed(pos=["p", 3]), r"pos\[1\] is '3', not a string"),
        (changed(pos=[None]), r"pos\[0\] is 'None', not a string"),
        (changed(neg={"a": 1}), "its 'neg' is .*, not a list of strings"),
        (changed(query=""), "'query' is '', which is blank"),
        (changed(query="  \n"), "'query' is .*, which is blank"),
        (changed(query=7), "'query' is '7', not a string"),
        (changed(pos=["p", " "]), r"pos\[1\] is ' ', which is blank"),
        (changed(neg=["n", ""]), r"neg\[1\] is '', which is blank"),
        (changed(prompt=3), "its 'prompt' is '3', not a string"),
        (changed(pos_scores=[1]), "1 pos_scores for 3 passages"),
        (changed(neg_scores=[1] * 6), "6 neg_scores for 5 passages"),
        (changed(pos_scores=3), "its 'pos_scores' is '3', not a list of numbers"),
        (changed(neg_scores=[0, 1, math.nan, 3, 4]), r"neg_scores\[2\] is 'nan', not a finite"),
        (changed(pos_scores=[math.inf, 1, 2]), r"pos_scores\[0\] is 'inf', not a finite number"),
        (changed(pos_scores=[1, "2", 3]), r"pos_scores\[1\] is '2', not a finite number"),
        (changed(pos_scores=[1, True, 3]), r"pos_scores\[1\] is 'True', not a finite number"),
        (changed(pos_scores=[1, 10**400, 3]), r"pos_scores\[1\] is '1000.*, not a finite number"),
        (dict(ROW), "has no 'pos_scores'; add scores of a cross-encoder with `effir score`"),
        ({**ROW, "pos_scores": [1, 2, 3]}, "has no 'neg_scores'; add scores .*`effir score`"),
        (changed(neg=["n"], neg_scores=[1]), "has 1 negatives, but negatives=3; mine more"),
        ({"text": "a", "label": 1}, "unknown schema; its keys are: 'text', 'label'; expected"),
        ({"query": "q", "positive": "p"}, "unknown schema; its keys are: 'query', 'positive'"),
        ({"pos": ["p"]}, "unknown schema; its keys are: 'pos'"),
        ({"query": "q", "positive_passages": ["p"]}, r"positive_passages\[0\] is 'p', not an obj"),
        ({"query": "q", "positive_passages": [{"title": "T"}]}, r"positive_passages\[0\] is "),
        (
            {"query": "q", "positive_passages": [{"title": 3, "text": "t"}]},
            r"the title of positive_passages\[0\] is not a string",
        ),
        (
            {"query": "q", "positive_passages": [{"title": "", "text": " "}]},
            r"positive_passages\[0\] is '', which is blank",
        ),
        ({"query": "q", "positive_passages": []}, "has no positive passage"),
    ],
)
def test_a_bad_line_is_refused_in_one_line_that_names_it(write, row, message):
    good = changed(neg=["n"] * 5)
    path = write(good, "", row)

    with pytest.raises(ValueError, match=f"^{path} line 3: .*{message}") as raised:
        load_training(path, negatives=3, scored=True)

    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2: not JSON"), ("[1]", "line 2: a JSON list, not an object")],
)
def test_a_line_that_is_no_object_is_refused(write, line, message):
    with pytest.raises(ValueError, match=message):
        load_training(write(ROW, line), negatives=1)


def test_a_row_in_memory_that_is_no_dictionary_is_refused():
    with pytest.raises(ValueError, match="rows row 2: a str, not a dictionary"):
        load_training([ROW, "query"], negatives=1)


def test_a_long_query_is_refused_with_its_prompt_and_special_tokens():
    row = {"query": "w1 w2 w3", "pos": ["p"]}
    shared = {"negatives": 0, "tokenizer": tiny_tokenizer(), "query_prompt": "w0 "}

    # The tokenizer puts one token in front.
    assert len(load_training([row], **shared, max_query_tokens=5)) == 1
    with pytest.raises(
        ValueError,
        match="rows row 1: its query has 5 tokens .* 4 are allowed; shorten it, or raise --max-len",
    ):
        load_training([row], **shared, max_query_tokens=4)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(write, content):
    path = write()
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no example"):
        load_training(path, negatives=0)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="rows: holds no example"):
        load_training([], negatives=0)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nothing.jsonl", FileNotFoundError, "nothing is there; expected a .jsonl file, a BEIR"),
        ("./no/such/folder", FileNotFoundError, "nothing is there"),
        (7, ValueError, "type int is not known"),
        (b"x", ValueError, "type bytes is not known"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path, monkeypatch, source, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_training(source)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("query,pos\n")
    with pytest.raises(ValueError, match="read from .jsonl files, not '.csv'"):
        load_training(tmp_path / "train.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": -1}, "negatives=-1 is not allowed; give an integer from 0 up"),
        ({"negatives": True}, "negatives=True is not allowed"),
        ({"negatives": None}, "negatives=None is not allowed"),
        ({"limit": 0}, "limit=0 is not allowed; give an integer from 1 up"),
        ({"max_query_tokens": 0}, "max_query_tokens=0 is not allowed"),
        ({"max_query_tokens": 8}, "max_query_tokens=8 needs a tokenizer"),
        ({"query_prompt": None}, "query_prompt=None is not allowed; give a string"),
    ],
)
def test_a_bad_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_training([ROW], **options)


def test_training_data_refuses_other_columns_than_it_says():
    dataset = datasets.Dataset.from_dict({"query": ["q"], "positive": ["p"]})
    with pytest.raises(ValueError, match="has the columns .*; expected .*'negative_1'"):
        TrainingData(source="s", sha256="", dataset=dataset, negatives=1, scored=False)
    with pytest.raises(ValueError, match="s: holds no example"):
        TrainingData(source="s", sha256="", dataset=dataset.select([]), negatives=0, scored=False)


def test_without_the_datasets_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "effir-integrations\[train\]"'):
        load_training([ROW])
