"""Static encoders: a text is the mean of its tokens' rows, whichever way the tokens were found, and as torch has it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from tiny_wordpiece import wordpiece
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from index import conversion, static
from index.conversion import TorchEncoder, bundled_folder, convert
from index.encoder import Fingerprint, fingerprint_in, open_encoder, read_recipe, write_recipe
from index.static import ROWS, SCALES, TOKENIZER, UNLIMITED, StaticEncoder, TextTokens, WordTokens, write_static
from store.records import LookaheadError

ROOT = Path(__file__).parent.parent
SPACE = Fingerprint("tiny", "1", 3, "static-mean", False, False, "", "", UNLIMITED)
ODD = [
    *(" ", "  ", "\t", "\n", "\r", "\x00", "\x07", "\x0b", "\x0c", "\x1c", "\x1f", "\x7f", "\x85", "\xa0", "\xad"),
    *("\u200b", "\u200d", "\u2028", "\u2029", "\u202e", "\u3000", "\ufeff", "\ufffd", "\u0301", "\u0338", "\u1680"),
    *("[SEP]", "[sep]", "[UNK]", "[CLS", "CLS]", "[MASK]", "##s", "##", "木橋", "ΟΔΟΣ", "ὈΔΥΣΣΕΎΣ", "İı", "ß", "ﬁ"),
    *("the", "The", "BRIDGE", "mill", "stones", "e.g.", "don't", "£5", "½", "é", "e\u0301", "١٢", "♞", "🌉", "ſ", "K"),
]
ODD_TEXTS = st.lists(st.sampled_from(ODD) | st.text(max_size=5), max_size=12).map("".join)
TEXTS = [
    "",
    " \t ",
    "\x07",
    "the old stone bridge over the river",
    "The OLD bridge, (of) stone! naïve 木の橋\u200b [SEP] ΟΔΟΣ a\x07b\x0bc\u00a0d",
    "mill " * 400,
]


def cased() -> Tokenizer:
    tokenizer = wordpiece()
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return tokenizer


def with_a_plain_added_token() -> Tokenizer:
    tokenizer = wordpiece()
    tokenizer.add_tokens([AddedToken("ridge", normalized=False), AddedToken("old", normalized=False, single_word=True)])
    return tokenizer


def of_short_words() -> Tokenizer:
    tokenizer = wordpiece()
    tokenizer.model.max_input_chars_per_word = 4
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "tiny": wordpiece,
    "cased": cased,
    "added": with_a_plain_added_token,
    "short": of_short_words,
    "bundled": lambda: Tokenizer.from_file(str(bundled_folder() / "tokenizer.json")),
}
MADE = {name: make() for name, make in TOKENIZERS.items()}


def ids(tokens: static.Tokens, texts: Sequence[str]) -> list[list[int]]:
    return [found.tolist() for found in tokens(texts)]


# -- tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_memory_of_words_gives_the_tokens_of_the_whole_text(name: str) -> None:
    tokenizer = MADE[name]
    tokenizer.no_padding()
    tokenizer.no_truncation()
    words, whole = WordTokens(tokenizer, UNLIMITED), TextTokens(tokenizer, UNLIMITED)

    @given(st.lists(ODD_TEXTS, max_size=4))
    def agree(texts: list[str]) -> None:
        assert ids(words, texts) == ids(whole, texts)

    agree()
    every = [f"{before}{odd}{after}" for odd in ODD for before in ("", "the", "the ") for after in ("", "s", " s")]
    assert ids(words, every) == ids(whole, every)
    assert ids(words, TEXTS) == ids(whole, TEXTS)


def test_what_the_tokens_of_a_text_are() -> None:
    tokenizer = wordpiece()
    tokens = static.tokens_by(tokenizer, UNLIMITED)
    found = [[tokenizer.id_to_token(one) for one in row] for row in ids(tokens, ["The mills, Bridge", "[SEP] ♞", ""])]
    assert found == [["the", "mill", "##s", ",", "bridge"], ["[SEP]", "[UNK]"], []]


@pytest.mark.parametrize("kind", [TextTokens, WordTokens])
def test_only_the_first_tokens_are_read(kind: type[TextTokens] | type[WordTokens]) -> None:
    tokenizer = wordpiece()
    whole = ids(kind(tokenizer, UNLIMITED), ["the mills of the river", "the"])
    assert ids(kind(tokenizer, 3), ["the mills of the river", "the"]) == [whole[0][:3], whole[1]]


def test_the_memory_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "_MOST_WORDS", 4)
    tokenizer = wordpiece()
    words = static._Words(tokenizer)
    texts = ["the old, stone bridge; over", "river mill of in the", "old " + "x" * 33, "the (old) (stone) bridge!"]
    for text in texts:
        for word in text.split(" "):
            alone = tokenizer.encode(word, add_special_tokens=False).ids
            assert np.frombuffer(words[word], dtype=np.int32).tolist() == alone
            assert len(words) <= 4
            assert "x" * 33 not in words
    assert len(words) > 0


def _bert_but(name: str) -> Tokenizer:
    tokenizer = wordpiece()
    match name:
        case "normalizer":
            tokenizer.normalizer = normalizers.Lowercase()
        case "no normalizer":
            tokenizer.normalizer = None
        case "pre-tokenizer":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        case "model":
            tokenizer.model = models.WordLevel(tokenizer.get_vocab(), unk_token="[UNK]")
        case "a space":
            tokenizer.add_tokens([AddedToken("old bridge", normalized=False)])
        case "normalised":
            tokenizer.add_tokens([AddedToken("oldbridge", normalized=True)])
    return tokenizer


@pytest.mark.parametrize("name", ["normalizer", "no normalizer", "pre-tokenizer", "model", "a space", "normalised"])
def test_another_kind_of_tokenizer_reads_whole_texts(name: str) -> None:
    assert isinstance(static.tokens_by(wordpiece(), 9), WordTokens)
    tokens = static.tokens_by(_bert_but(name), 9)
    assert isinstance(tokens, TextTokens)
    text = "the old bridge oldbridge"
    assert ids(tokens, [text])[0] == _bert_but(name).encode(text, add_special_tokens=False).ids[:9]


# -- vectors -----------------------------------------------------------------------------------------------


def one_hot(folder: Path, *, eight_bits: bool = False, space: Fingerprint = SPACE) -> StaticEncoder:
    """Of three dimensions: "the" is the first, "bridge" the second, "##s" twice the third, all else nothing."""
    tokenizer = wordpiece()
    table = np.zeros((tokenizer.get_vocab_size(), 3), dtype=np.float32)
    for axis, (piece, length) in enumerate([("the", 1), ("bridge", 1), ("##s", 2)]):
        table[tokenizer.token_to_id(piece), axis] = length
    write_recipe(folder, {"kind": "static", "spec": "tiny", "fingerprint": space.as_json()})
    write_static(folder, table, tokenizer, eight_bits=eight_bits)
    return StaticEncoder.open(folder)


@pytest.mark.parametrize("eight_bits", [False, True])
def test_a_text_is_the_mean_of_its_tokens(tmp_path: Path, eight_bits: bool) -> None:
    encoder = one_hot(tmp_path, eight_bits=eight_bits)
    vectors = encoder.encode(["the", "The bridges", "the the the bridge", "river the", ""])
    expected = [[1, 0, 0], [1 / 3, 1 / 3, 2 / 3], [3 / 4, 1 / 4, 0], [1 / 2, 0, 0], [0, 0, 0]]
    assert vectors == pytest.approx(np.array(expected), abs=1e-6)
    assert encoder.precision == ("int8" if eight_bits else "f32")


def test_a_normalised_space_has_vectors_of_length_one_or_nought(tmp_path: Path) -> None:
    space = Fingerprint("tiny", "1", 3, "static-mean", False, True, "the ", "bridge ", UNLIMITED)
    encoder = one_hot(tmp_path, space=space)
    root = 0.5**0.5
    assert encoder.encode(["bridge", ""]) == pytest.approx(np.array([[root, root, 0], [1, 0, 0]]), abs=1e-6)
    assert encoder.encode_queries(["the", ""]) == pytest.approx(np.array([[root, root, 0], [0, 1, 0]]), abs=1e-6)
    assert encoder.encode([]).shape == (0, 3)
    assert (encoder.name, encoder.dim, encoder.fingerprint) == ("tiny", 3, space)
    bare = one_hot(tmp_path, space=Fingerprint("tiny", "1", 3, "static-mean", False, True, "", "", UNLIMITED))
    assert not bare.encode(["", "river", "\x07"]).any()


@given(arrays(np.float32, (140, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_eight_bits_are_off_by_half_a_step_at_most(table: NDArray[np.float32]) -> None:
    largest = np.abs(table).max(axis=1, keepdims=True)
    rows, scales = static.in_eight_bits(table)
    assert rows.dtype == np.int8
    assert np.isfinite(scales).all()
    assert np.all(np.abs(rows * scales[:, None] - table) <= largest / 254 * 1.001 + 1e-30)


@pytest.mark.parametrize("name", [ROWS, SCALES, TOKENIZER])
@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "another"])
def test_a_damaged_table_is_one_line_that_names_its_folder(tmp_path: Path, name: str, how: str) -> None:
    one_hot(tmp_path)
    (tmp_path / name).unlink()
    if how in ("empty", "garbage"):
        (tmp_path / name).write_bytes(b"" if how == "empty" else b"<garbage>" * 50)
    elif how == "another" and name == TOKENIZER:
        wordpiece([f"w{number}" for number in range(50)]).save(str(tmp_path / name))
    elif how == "another":
        np.save(tmp_path / name, np.zeros((5, 3), dtype=np.float64))
    with pytest.raises(LookaheadError, match="run: lookahead verify") as caught:
        open_encoder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_static_encoder_is_opened_on_the_processor_whatever_is_asked(tmp_path: Path) -> None:
    one_hot(tmp_path)
    for device in ("auto", "cpu", "cuda"):
        assert isinstance(open_encoder(tmp_path, bulk=True, device=device), StaticEncoder)


def test_a_static_encoder_answers_without_torch_or_openvino(tmp_path: Path) -> None:
    one_hot(tmp_path)
    code = """
import sys
from pathlib import Path
from index.encoder import open_encoder
print(open_encoder(Path(sys.argv[1])).encode_queries(["the bridge"]).tolist())
print({"torch", "transformers", "sentence_transformers", "openvino", "scipy"} & set(sys.modules))
"""
    told = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert (told.stdout, told.stderr) == ("[[0.5, 0.5, 0.0]]\nset()\n", "")


# -- from sentence-transformers ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing torch and its friends
        import sentence_transformers  # noqa: F401
    return tmp_path_factory.mktemp("static")


def model(folder: Path, *, normalise: bool = True, dense: bool = False, most: int | None = None, end: str = "right",
          prompts: dict[str, str] | None = None) -> Path:  # fmt: skip
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    tokenizer = wordpiece()
    tokenizer.enable_padding()
    if most is not None:
        tokenizer.enable_truncation(most, direction=end)
    table = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), 24)).astype(np.float32)
    parts: list[torch.nn.Module] = [modules.StaticEmbedding(tokenizer, embedding_weights=table)]
    parts += [modules.Dense(24, 8)] if dense else []
    parts += [modules.Normalize()] if normalise else []
    with conversion._quiet():
        SentenceTransformer(modules=parts, device="cpu", prompts=prompts or {}).save(str(folder))
    return folder


def converted(path: Path, folder: Path) -> tuple[list[str], TorchEncoder]:
    folder.mkdir(exist_ok=True)
    notes: list[str] = []
    convert(str(path), folder, device="cpu", note=notes.append)
    return notes, TorchEncoder.open(folder, device="cpu")


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("most", [None, 5])
def test_the_fast_path_gives_what_sentence_transformers_gives(
    workshop: Path, tmp_path: Path, normalise: bool, most: int | None
) -> None:
    prompts = {"query": "old bridge ", "document": "the mill "}
    notes, reference = converted(model(tmp_path / "m", normalise=normalise, most=most, prompts=prompts), tmp_path / "e")
    encoder = open_encoder(tmp_path / "e")
    assert isinstance(encoder, StaticEncoder)
    for ours, theirs in (
        (encoder.encode(TEXTS), reference.encode(TEXTS)),
        (encoder.encode_queries(TEXTS), reference.encode_queries(TEXTS)),
    ):
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        assert ((ours * theirs).sum(axis=1) / lengths).min() >= 0.999
        assert ours == pytest.approx(theirs, abs=0.02)
    space = encoder.fingerprint
    assert (space.pooling, space.normalised, space.dense, space.dim) == ("static-mean", normalise, False, 24)
    assert (space.max_tokens, space.precision) == (UNLIMITED if most is None else most, "full")
    assert (space.document_prefix, space.query_prefix) == ("the mill ", "old bridge ")
    assert "a static table in int8 (cosine 0.99" in notes[0]
    assert read_recipe(tmp_path / "e")["kind"] == "static"


def test_a_text_without_tokens_is_the_zero_vector_there_too(workshop: Path, tmp_path: Path) -> None:
    _, reference = converted(model(tmp_path / "m"), tmp_path / "e")
    assert not reference.encode(["", "\x07"]).any()
    assert not open_encoder(tmp_path / "e").encode(["", "\x07"]).any()


def test_a_table_that_eight_bits_do_not_hold_is_kept_whole(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "SAME_SPACE", 0.999999)
    notes, reference = converted(model(tmp_path / "m"), tmp_path / "e")
    encoder = open_encoder(tmp_path / "e")
    assert isinstance(encoder, StaticEncoder)
    assert encoder.precision == "f32"
    assert "in f32" in notes[0]
    assert encoder.encode(TEXTS) == pytest.approx(reference.encode(TEXTS), abs=1e-5)


@pytest.mark.parametrize("how", ["dense", "end", "differs"])
def test_a_static_model_that_is_more_than_a_mean_runs_on_torch(
    workshop: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "differs":
        monkeypatch.setattr(conversion, "SAME_SPACE", 1.1)
    end = "left" if how == "end" else "right"
    path = model(tmp_path / "m", dense=how == "dense", most=5 if how == "end" else None, end=end)
    _, reference = converted(path, tmp_path / "e")
    encoder = open_encoder(tmp_path / "e", device="cpu")
    assert isinstance(encoder, TorchEncoder)
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["encoder.json"]
    assert encoder.encode(TEXTS) == pytest.approx(reference.encode(TEXTS), abs=1e-6)
    shutil.rmtree(tmp_path / "m")
    assert fingerprint_in(tmp_path / "e").pooling == "static-mean"
