"""A trimmed encoder: the same vectors, fewer rows, and every input that cannot be trimmed."""

from __future__ import annotations

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny import save_bare, tiny_model
from trained import KINDS, SCRIPTS, texts, trained, words
from verbs import effir, effir_json, refused

from effir_integrations import CompressConfig, TrimConfig, compress, load, trim
from effir_integrations.encoder.fingerprint import encoder_fingerprint
from effir_integrations.files import read_json
from effir_integrations.model.modeling import HISTORY_FILE
from effir_integrations.vocabulary.counts import fronts_of, ids_of

FAMILY_OF = {"bytes": "gpt2", "fallback": "gemma2", "pieces": "bert", "unigram": "xlm-roberta"}
LATIN = texts(60, seed=5, scripts=("latin", "digits"))


def save(folder, kind, family=None, **options):
    """Write a tiny bare model with a tokenizer of a kind."""
    tokenizer = trained(kind)
    names = {f"{x}_token_id": getattr(tokenizer, f"{x}_token_id") for x in ("pad", "bos", "eos")}
    sizes = {"vocab_size": len(tokenizer), **names, **options}
    tiny_model(family or FAMILY_OF[kind], **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A tiny model of each kind of tokenizer."""
    return {kind: save(tmp_path_factory.mktemp(kind) / "base", kind) for kind in KINDS}


@pytest.fixture(scope="module")
def trimmed(bases, tmp_path_factory):
    """The model on pieces, with what Latin texts need."""
    return trim(bases["pieces"], tmp_path_factory.mktemp("trimmed") / "out", texts=LATIN)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_whose_tokens_stay_keep_their_vectors_bit_for_bit(kind, bases, tmp_path):
    before = load(bases[kind], prompts={"query": "abc: "})
    made = trim(bases[kind], tmp_path / "out", texts=LATIN)
    assert made.tokens < made.tokens_before - 100
    assert made.parameters < made.parameters_before
    assert (made.lost, made.texts) == (0, len(LATIN)) and made.lost_held_out > 0
    ours, stock = load(made.out), SentenceTransformer(str(made.out), device="cpu")
    assert torch.equal(*(x.encode(LATIN, convert_to_tensor=True) for x in (before, ours)))
    batch = LATIN[:16]
    first, second = (x(x.preprocess(batch))["sentence_embedding"] for x in (before, stock))
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_named_by_its_id_is_named_by_the_new_one(kind, bases, tmp_path):
    made = trim(bases[kind], tmp_path / "out", texts=LATIN)
    before, config = trained(kind), read_json(made.out / "config.json", "a config")
    tokenizer = load(made.out).tokenizer
    assert config["vocab_size"] == len(tokenizer) == made.tokens
    for name in ("bos", "eos", "pad"):
        token = getattr(before, f"{name}_token")
        assert config[f"{name}_token_id"] == tokenizer.convert_tokens_to_ids(token)
    assert tokenizer("abc")["input_ids"][0] == tokenizer.bos_token_id


def test_special_tokens_at_the_end_of_the_vocabulary_move(tmp_path):
    folder = save(tmp_path / "base", "bytes", family="llama", vocab_size=706)
    tokenizer = trained("bytes")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.eos_token = "<|end|>"
    tokenizer.chat_template = "{{ messages[0]['content'] }}<|end|>"
    tokenizer.save_pretrained(folder)
    config = read_json(folder / "config.json", "a config")
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [700, 2]}))
    made = trim(folder, tmp_path / "out", texts=LATIN)
    tokenizer = load(made.out).tokenizer
    assert tokenizer.eos_token_id == made.tokens - 1
    assert read_json(made.out / "config.json", "a config")["eos_token_id"] == [made.tokens - 1, 2]
    assert tokenizer.chat_template.endswith("<|end|>")
    assert tokenizer("abc")["input_ids"][-1] == made.tokens - 1


def test_a_stock_model_stays_one_and_says_what_was_done(trimmed):
    assert read_json(trimmed.out / "config.json", "a config")["model_type"] == "bert"
    card = (trimmed.out / "README.md").read_text()
    assert f"{trimmed.tokens} of {trimmed.tokens_before} tokens of the vocabulary stay" in card
    assert "neurons were removed" not in card and "plain bert model" in card
    history = read_json(trimmed.out / HISTORY_FILE, "a history")
    assert history["space"]["same_documents"] is False
    assert history["parameters"] == trimmed.parameters < history["parameters_before"]


def test_it_can_be_compressed_and_what_was_compressed_can_be_trimmed(bases, trimmed, tmp_path):
    config = CompressConfig(keep_neurons=0.5, multiple_of=8, drop_mlp=1)
    first = compress(trimmed.out, tmp_path / "first", config, texts=LATIN)
    compress(bases["pieces"], tmp_path / "pruned", config, texts=LATIN)
    second = trim(tmp_path / "pruned", tmp_path / "second", texts=LATIN)
    vectors = [x.encode(LATIN, convert_to_tensor=True) for x in (first.encoder, second.encoder)]
    assert torch.equal(*vectors)
    assert read_json(second.out / "config.json", "a config")["model_type"] == "effir_bert"
    card = (second.out / "README.md").read_text()
    assert "neurons were removed and" in card and "tokens of the vocabulary stay" in card


@pytest.mark.parametrize("layout", ["bare", "folder", "pruned"])
@pytest.mark.parametrize("kind", ["bytes", "unigram"])
def test_from_disk_the_same_model_is_written(kind, layout, bases, tmp_path):
    source = bases[kind]
    if layout == "folder":
        source = tmp_path / "folder"
        load(bases[kind], prompts={"query": "abc: "}).save_pretrained(str(source))
    elif layout == "pruned":
        source = tmp_path / "pruned"
        config = CompressConfig(keep_neurons=0.5, multiple_of=8, drop_attention=1)
        compress(bases[kind], source, config, texts=LATIN)
    ours = trim(source, tmp_path / "memory", texts=LATIN)
    theirs = trim(source, tmp_path / "disk", texts=LATIN, from_disk=True)
    assert (ours.tokens, ours.parameters) == (theirs.tokens, theirs.parameters)
    assert ours.parameters_before == theirs.parameters_before
    assert encoder_fingerprint(load(theirs.out)) == encoder_fingerprint(load(ours.out))
    histories = [read_json(x.out / HISTORY_FILE, "a history") for x in (ours, theirs)]
    assert histories[0] == histories[1]


def test_size_keeps_what_is_needed_most_often(bases, tmp_path):
    made = trim(bases["bytes"], tmp_path / "out", TrimConfig(size=330), texts=LATIN)
    assert 325 <= made.tokens <= 330 and 0 < made.lost < made.lost_held_out + 0.1
    counted = {}
    for ids in ids_of(trained("bytes"), LATIN):
        for token in trained("bytes").convert_ids_to_tokens(ids):
            counted[token] = counted.get(token, 0) + 1
    whole = sorted((x for x in counted if len(x) > 3), key=lambda x: -counted[x])
    kept = made.encoder.tokenizer.get_vocab()
    assert set(whole[:5]) <= kept.keys() and not set(whole[-5:]) & kept.keys()


def test_min_count_leaves_rare_tokens_out(bases, tmp_path):
    often = trim(bases["pieces"], tmp_path / "often", TrimConfig(min_count=5), texts=LATIN)
    once = trim(bases["pieces"], tmp_path / "once", texts=LATIN)
    assert often.tokens < once.tokens and often.lost > 0


def test_languages_keep_their_script_and_what_has_no_letters(bases, tmp_path):
    made = trim(bases["fallback"], tmp_path / "out", TrimConfig(languages=("de", "cjk")))
    assert (made.texts, made.lost, made.lost_held_out) == (0, None, None)
    before, kept = trained("fallback").get_vocab(), made.encoder.tokenizer.get_vocab()
    letters = {name: set(SCRIPTS[name]) for name in SCRIPTS}
    for script in ("latin", "cjk", "digits"):
        assert {x for x in before if set(x) <= letters[script]} <= kept.keys()
    assert not {x for x in kept if set(x) & (letters["greek"] | letters["cyrillic"])}


def test_texts_are_counted_behind_the_prompts_of_both_roles():
    prompts = {"query": "q: ", "passage": "p: ", "other": "o: "}
    assert fronts_of(prompts, None) == ["", "q: ", "p: "]
    assert fronts_of({"a": "x"}, "a") == ["", "x"]


def test_the_tokens_of_prompts_stay(tmp_path):
    folder = save(tmp_path / "base", "pieces")
    prompt = " ".join(words("greek")[:3])
    load(folder, prompts={"other": prompt}).save_pretrained(str(tmp_path / "prompted"))
    made = trim(tmp_path / "prompted", tmp_path / "out", texts=LATIN)
    before = ids_of(trained("pieces"), [prompt])[0]
    after = ids_of(made.encoder.tokenizer, [prompt])[0]
    assert len(before) == len(after)


def test_the_real_minilm_keeps_its_vectors(minilm, tmp_path):
    some = [f"Protein {x} binds receptors of neural tissue in mice." for x in range(20)]
    before = load(minilm)
    made = trim(minilm, tmp_path / "out", texts=some)
    assert made.tokens < 4000
    assert torch.equal(*(x.encode(some, convert_to_tensor=True) for x in (before, load(made.out))))


def test_the_verb_prints_what_it_says_in_json(bases, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(LATIN))
    arguments = ("trim", bases["pieces"], tmp_path / "out", "--texts", tmp_path / "texts.txt")
    found = effir_json(*arguments)
    assert found["tokens"] < found["tokens_before"] and found["out"] == str(tmp_path / "out")
    again = effir(*arguments, "--force")
    assert again.exit_code == 0 and "tokens" in again.stdout
    assert "nothing says which tokens stay" in refused("trim", bases["pieces"], tmp_path / "new")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"size": 10}, "size=10 is below the .* tokens that must stay"),
        ({"size": 100_000}, "size=100000 is not below the"),
        ({"size": 320, "min_count": 1}, "tokens are needed at least min_count=1 times.*raise"),
        ({"languages": ("th",)}, "no token of .* holds letters of th"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(config, said, bases, tmp_path):
    with pytest.raises(ValueError, match=said):
        trim(bases["bytes"], tmp_path / "out", TrimConfig(**config), texts=LATIN)
    assert not (tmp_path / "out").exists()


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"language 'xx' is not known; give a code such as en"):
        TrimConfig(languages=("xx",))
    with pytest.raises(ValueError, match="min_count=0 must be at least 1"):
        TrimConfig(min_count=0)


def test_a_vocabulary_is_not_trimmed_twice(trimmed, tmp_path):
    with pytest.raises(ValueError, match=f"trimmed before, from .* to {trimmed.tokens:,} tokens"):
        trim(trimmed.out, tmp_path / "out", texts=LATIN[:5])


def test_texts_that_need_every_token_leave_nothing_to_trim(bases, tmp_path):
    every = [*texts(400), *(x for x in trained("pieces").get_vocab())]
    everything = trained("pieces").convert_ids_to_tokens(range(len(trained("pieces"))))
    made = {x for ids in ids_of(trained("pieces"), every) for x in ids}
    rest = TrimConfig(languages=("latin", "ru", "el", "zh", "ja"))
    assert len(made) < len(everything)
    with pytest.raises(ValueError, match="nothing would go; give size, or min_count above 1"):
        trim(bases["pieces"], tmp_path / "out", rest, texts=every)


def test_ids_in_a_config_that_are_not_known_are_refused(bases, tmp_path):
    folder = save(tmp_path / "base", "pieces", image_token_index=7)
    with pytest.raises(ValueError, match="image_token_index=7, whose ids cannot be put right"):
        trim(folder, tmp_path / "out", texts=LATIN)


def test_words_without_smaller_pieces_are_refused(tmp_path):
    folder = save_bare("bert", tmp_path / "base")
    with pytest.raises(ValueError, match="is WordLevel, which cannot be trimmed"):
        trim(folder, tmp_path / "out", texts=["w1 w2"])


def test_a_split_that_changes_is_an_error_and_leaves_nothing(bases, tmp_path, monkeypatch):
    from effir_integrations.vocabulary.kinds import Bpe

    # without the tokens between, merges that made kept ones are gone
    monkeypatch.setattr(Bpe, "parts", lambda self, token: set())
    with pytest.raises(RuntimeError, match="in another way, although all of its tokens stay"):
        trim(bases["bytes"], tmp_path / "out", texts=LATIN)
    assert not (tmp_path / "out").exists()
