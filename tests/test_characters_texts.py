"""Text for next-character models: 78 symbols, languages and splits that share nothing, and what counting predicts."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.build import Choices, ingest
from retrieval.characters import texts as texts_module
from retrieval.characters.baselines import ORDERS, Hits, Table, baselines, judge
from retrieval.characters.presets import PUBLISHED, preset
from retrieval.characters.texts import (
    BLOCK,
    STRETCH,
    Corpus,
    Units,
    blocks_of,
    corpus_of,
    texts_of_files,
    texts_of_store,
    tidy,
)
from retrieval.characters.vocabulary import PAD, SIZE, UNK, Vocabulary
from store.database import Entry, Store
from store.generations import Collection
from store.records import Article, LookaheadError, Piece, Split
from store.sources import open_source
from store.splits import split_of

ABC = Vocabulary("abc")  # a is 2, b is 3, c is 4


def units_of(*texts: str) -> Units:
    return Units.of(map(ABC.encode, texts))


def prose(characters: int, *, seed: int = 0, words: str = "river bridge stone hill road green old") -> str:
    """Lines of eight words drawn from a few."""
    drawn = random.Random(seed)
    lines: list[str] = []
    while sum(map(len, lines)) < characters:
        lines.append(" ".join(drawn.choices(words.split(), k=8)) + f" {len(lines)}.")
    return "\n".join(lines)


# -- vocabulary ------------------------------------------------------------------------------------------


def test_symbols_are_given_by_frequency_and_where_equal_by_code_point() -> None:
    assert Vocabulary.of([{"z": 3, "b": 2, "a": 2, "é": 2, "q": 9}]).characters == "qzabé"


def test_there_are_never_more_than_78_symbols_with_the_two_of_our_own() -> None:
    many = {chr(0x4E00 + place): 1000 - place for place in range(200)}
    vocabulary = Vocabulary.of([many])
    assert len(vocabulary.characters) == 76
    assert vocabulary.encode(chr(0x4E00 + 75))[0] == SIZE - 1
    assert vocabulary.encode(chr(0x4E00 + 76))[0] == UNK


def test_a_small_language_has_its_say_in_the_vocabulary() -> None:
    large = {chr(0x4E00 + place): 1_000_000 for place in range(100)}  # each 1 % of its language
    assert "ñ" in Vocabulary.of([large, {"a": 95, "ñ": 5}]).characters


def test_a_character_unknown_to_the_vocabulary_is_unk_and_padding_is_nothing() -> None:
    assert ABC.encode("cab?").tolist() == [4, 2, 3, UNK]
    assert ABC.decode(np.array([4, PAD, 2, UNK], dtype=np.uint8)) == "ca�"


def test_letters_and_accents_apart_are_read_as_one_character() -> None:
    assert Vocabulary("é").encode("e\u0301").tolist() == [2]


@given(st.text(), st.text(min_size=1, max_size=76))
def test_what_is_encoded_is_decoded_again_but_for_unknown_characters(text: str, letters: str) -> None:
    vocabulary = Vocabulary("".join(dict.fromkeys(letters)))
    composed = unicodedata.normalize("NFC", text)
    expected = "".join(letter if letter in vocabulary.characters else "�" for letter in composed)
    assert vocabulary.decode(vocabulary.encode(text)) == expected


def test_a_vocabulary_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    vocabulary = Vocabulary(' \n"é\ud800')
    vocabulary.save(tmp_path / "vocabulary.json")
    assert json.loads((tmp_path / "vocabulary.json").read_text())["symbols"][:3] == ["<PAD>", "<UNK>", " "]
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"symbols": ["<PAD>", "a"]}', b'{"symbols": ["<PAD>", "<UNK>", "a", "a"]}', b'{"symbols": 3}'],
)
def test_a_damaged_vocabulary_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vocabulary.json").write_bytes(content)
    with pytest.raises(LookaheadError, match=r"vocabulary\.json is no vocabulary: .*"):
        Vocabulary.load(tmp_path / "vocabulary.json")


# -- units and windows -----------------------------------------------------------------------------------


def test_windows_make_each_symbol_but_a_units_first_a_target_once() -> None:
    symbols, unit = units_of("abcab", "ab", "c", "abc").windows(2)
    assert symbols.tolist() == [[2, 3, 4], [4, 2, 3], [2, 3, PAD], [2, 3, 4]]  # "c" alone has nothing before it
    assert unit.tolist() == [0, 0, 1, 2]


@settings(max_examples=30)
@given(st.lists(st.text("abc", min_size=2, max_size=9), min_size=1, max_size=4), st.integers(1, 5))
def test_targets_of_all_windows_are_the_text_without_first_symbols(texts: list[str], length: int) -> None:
    units = units_of(*texts)
    symbols, unit = units.windows(length)
    for number, text in enumerate(texts):
        targets = symbols[unit == number, 1:].flatten()
        assert ABC.decode(targets) == text[1:]


@given(st.lists(st.text("abc", min_size=2, max_size=9), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 9))
def test_a_drawn_window_is_a_stretch_of_one_unit_as_long_as_may_be(texts: list[str], length: int, seed: int) -> None:
    for row in units_of(*texts).drawn(np.random.default_rng(seed), 8, length):
        text = ABC.decode(row)
        assert any(text in unit and len(text) == min(len(unit), length + 1) for unit in texts)


def test_every_place_is_drawn() -> None:
    rows = units_of("abc", "cb").drawn(np.random.default_rng(0), 60, 1)
    assert {ABC.decode(row) for row in rows} == {"ab", "bc", "cb"}


# -- texts -----------------------------------------------------------------------------------------------


def test_blanks_and_line_ends_are_made_alike() -> None:
    assert tidy(" a\u00a0\t b \r\n\r\n  c\rd\ne\u0301 ") == "a b\nc\nd\né"


@given(st.text("ab \n", max_size=5000) | st.integers(0, 5000).map(lambda size: "x" * size))
def test_blocks_are_whole_lines_that_make_up_the_text(text: str) -> None:
    blocks = list(blocks_of(tidy(text)))
    assert "".join(blocks).replace("\n", "") == tidy(text).replace("\n", "")
    assert all(BLOCK <= len(block) < 2 * BLOCK + 1 for block in blocks[:-1])


def test_blocks_end_at_line_ends() -> None:
    text = prose(5 * BLOCK)
    assert "\n".join(blocks_of(text)) == text


def test_a_file_gives_each_split_blocks_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "es.txt").write_text(prose(60_000), encoding="utf-8")
    texts = texts_of_files(tmp_path / "es.txt")
    lines = [{line for block in texts[split] for line in block.split("\n")} for split in Split]
    assert all(lines)
    assert not lines[0] & lines[1]
    assert not (lines[0] | lines[1]) & lines[2]
    assert sum(map(len, lines)) == len(set(prose(60_000).split("\n")))


def test_a_line_that_train_has_is_left_out_of_dev_and_test(tmp_path: Path) -> None:
    shared = "All rights are reserved by the publisher."
    text = prose(60_000).replace("\n", f"\n{shared}\nYes.\n")
    (tmp_path / "en.txt").write_text(text, encoding="utf-8")
    texts = texts_of_files(tmp_path / "en.txt")
    held = {split: "\n".join(texts[split]) for split in Split}
    assert shared in held[Split.TRAIN]
    assert shared not in held[Split.VALID] + held[Split.TEST]
    assert "Yes." in held[Split.VALID]  # short lines are alike by coincidence


def test_a_folder_is_read_whole_whatever_the_order_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.txt").write_text("First of all.", encoding="utf-8")
    (tmp_path / "two.txt").write_text("And then.", encoding="utf-8")
    (tmp_path / "three.md").write_text("No text.", encoding="utf-8")
    assert sorted(block for blocks in texts_of_files(tmp_path).values() for block in blocks) == [
        "And then.",
        "First of all.",
    ]


def test_no_more_than_is_used_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "MOST", {Split.TRAIN: 2500, Split.VALID: 900, Split.TEST: 500})
    (tmp_path / "en.txt").write_text(prose(60_000), encoding="utf-8")
    texts = texts_of_files(tmp_path / "en.txt")
    assert [sum(map(len, texts[split])) for split in Split] == [2500, 900, 500]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"there is no file /.*/es\.txt$"),
        (b"caf\xe9", r"/.*/es\.txt is not UTF-8 at byte 3; convert it first$"),
        (b"Hola.", r"^too little text in es \(/.*/es\.txt\): .* of train, at least 20,000 are needed; .*--languages$"),
    ],
)
def test_text_that_will_not_do_is_refused_in_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "es.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LookaheadError, match=said):
        corpus_of(None, {"es": path})


def test_too_little_of_dev_is_too_little() -> None:
    splits = {Split.TRAIN: ["ab" * 10_000], Split.VALID: ["ab"], Split.TEST: ["ab" * 1_000]}
    with pytest.raises(LookaheadError, match=r"too little text in en .* 2 characters of valid, at least 2,000"):
        Corpus.of({"en": splits}, {"en": "here"})


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match=r"there is no \.txt file in /"):
        texts_of_files(tmp_path)


def test_a_language_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match=r"there is no text in fr, only in es; add --text fr=FILE"):
        corpus_of(None, {"es": tmp_path / "es.txt"}, ["es", "fr"])
    with pytest.raises(LookaheadError, match="there is no text; give a --collection or --text"):
        corpus_of(None, {})


def test_an_articles_chunks_are_running_text_again_a_line_a_section(tmp_path: Path) -> None:
    pieces = [Piece("", "The old bridge."), Piece("", "It stands."), Piece("History", "It fell.")]
    with Store.create_or_resume(tmp_path / "chunks.duckdb") as store:
        store.add([Entry(Article(page, f"Page {page}", ()), pieces, "here", str(page)) for page in range(1, 41)])
        texts = texts_of_store(store)
    assert set(texts[Split.TRAIN]) == {"The old bridge. It stands.\nIt fell."}
    assert [len(texts[split]) for split in Split] == [
        sum(split_of(p) is split for p in range(1, 41)) for split in Split
    ]


def test_of_a_long_article_of_dev_or_test_a_stretch_is_used(tmp_path: Path) -> None:
    train, test = (
        next(page for page in range(1, 100) if split_of(page) is split) for split in (Split.TRAIN, Split.TEST)
    )
    pieces = [Piece("", prose(3 * STRETCH))]
    with Store.create_or_resume(tmp_path / "chunks.duckdb") as store:
        store.add([Entry(Article(page, f"Page {page}", ()), pieces, "here", str(page)) for page in (train, test)])
        texts = texts_of_store(store)
    assert texts[Split.TRAIN] == [tidy(pieces[0].text)]
    assert len(texts[Split.TEST][0]) == STRETCH
    assert texts[Split.TEST][0] in tidy(pieces[0].text)
    assert not tidy(pieces[0].text).startswith(texts[Split.TEST][0])  # the place is drawn: leads are not like the rest


@pytest.mark.slow
def test_a_collection_gives_text_in_its_own_language(tmp_path: Path) -> None:
    pages = [{"page_id": page, "title": f"Page {page}", "text": prose(1500, seed=page)} for page in range(1, 41)]
    lines = (json.dumps(page) + "\n" for page in pages)
    (tmp_path / "pages.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "es.txt").write_text(prose(60_000, words="río puente piedra colina"), encoding="utf-8")
    choices = Choices(encoder="hashing", workers=1, quiet=True)
    ingest(Collection(tmp_path / "wiki"), [open_source(tmp_path / "pages.jsonl", "jsonl")], choices)
    wiki, files = Collection(tmp_path / "wiki"), {"es": tmp_path / "es.txt"}
    corpus = corpus_of(wiki, files)
    assert corpus.sources == {"en": "collection wiki", "es": str(tmp_path / "es.txt")}
    assert "í" in corpus.vocabulary.characters
    assert len(corpus.languages["en"][Split.TRAIN]) == sum(split_of(page) is Split.TRAIN for page in range(1, 41))
    assert list(corpus_of(wiki, files, ["es"]).languages) == ["es"]
    assert corpus_of(wiki, {"en": tmp_path / "es.txt"}).sources == {"en": str(tmp_path / "es.txt")}  # stands in


def test_the_data_of_a_corpus_tells_it_from_one_that_differs_in_a_character() -> None:
    def told(last: str) -> object:
        splits = {Split.TRAIN: ["ab" * 10_000], Split.VALID: ["ab" * 1_000], Split.TEST: ["ab" * 1_000 + last]}
        return Corpus.of({"en": splits}, {"en": "here"}).data

    assert told("a") == told("a") != told("b")
    assert json.loads(json.dumps(told("a"))) == told("a")


# -- what counting predicts ------------------------------------------------------------------------------


def test_the_most_frequent_are_predicted_whatever_stands_before() -> None:
    units = units_of("aaabbc")
    assert Table.of(units, 1).following.tolist() == [[2, 3, 4]]  # a twice (its first has nothing before), b twice, c
    hits = judge([Table.of(units, 1)], units_of("bacab"))
    assert (hits.top1.tolist(), hits.top3.tolist(), hits.size.tolist()) == ([2.0], [4.0], [4.0])


def test_a_bigram_predicts_what_followed_most_often_and_then_what_is_frequent() -> None:
    train = units_of("abababac")  # after a: b 3, c 1; after b: a 3
    tables = [Table.of(train, order) for order in (1, 2)]
    assert tables[1].following.tolist() == [[3, 4, -1], [2, -1, -1]]
    hits = judge(tables, units_of("ab", "ac", "bc", "ca"))
    # ab: first; ac: second; after b: a, then by frequency b and c; after c, never seen before anything: a, b, c
    assert hits.top1.tolist() == [1, 0, 0, 1]
    assert hits.top3.tolist() == [1, 1, 1, 1]


def test_no_context_reaches_over_the_end_of_a_unit() -> None:
    assert Table.of(units_of("ab", "ca"), 2).following.tolist() == [[3, -1, -1], [2, -1, -1]]  # never b → c
    assert Table.of(units_of("ab", "ca"), 3).contexts.tolist() == [2, 4]  # padding and a, padding and c


def test_an_unknown_character_counts_as_missed_however_it_is_predicted() -> None:
    targets = np.array([UNK, 2], dtype=np.uint8)
    hits = Hits.of(np.array([1, 1]), targets, np.array([0, 0]), 1)
    assert (hits.top1.tolist(), hits.size.tolist()) == ([1.0], [2.0])
    assert UNK not in Table.of(units_of("a???a??"), 2).following


def test_longer_contexts_predict_text_that_repeats_itself() -> None:
    text = "aab" * 7000
    corpus = Corpus.of(
        {"en": {Split.TRAIN: [text], Split.VALID: [text[:2100]], Split.TEST: [text[:2100]]}}, {"en": "here"}
    )
    found = baselines(corpus)["en"]
    assert list(found) == list(ORDERS)
    assert found["most frequent"]["test_top1"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["bigram"]["test_top1"] == pytest.approx(2 / 3, abs=1e-3)  # after a: a or b
    assert found["5-gram"]["test_top1"] == pytest.approx(1.0, abs=1e-3)  # all but the second place's guess


# -- presets ---------------------------------------------------------------------------------------------


def test_the_published_table_has_eight_known_rows_and_five_of_ours() -> None:
    assert [row.ours for row in PUBLISHED] == 8 * [False] + 5 * [True]
    assert all("(ours)" in row.config.name for row in PUBLISHED if row.ours)
    assert len({row.config.name for row in PUBLISHED}) == 13
    assert [config.name for config in preset("published")] == [row.config.name for row in PUBLISHED]


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(LookaheadError, match="there is no preset 'best'; there are: published"):
        preset("best")
