"""`decode` at the command line: three ways in, what is told, JSON lines, and every bad input in one line."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_inverters import Tabled, open_as, write_inverter

from cli import main
from commands.decode import read_vectors
from index.build import Choices, ingest
from index.hashing import HashingEncoder
from retrieval import models, open_inverter
from retrieval.inverters import FOLDER
from store.generations import Collection
from store.records import LookaheadError
from store.sources import open_source

BRIDGE = "A stone bridge carries the old road over our small river."
TEA = "Green tea is poured slowly into a cup of thin china."
COFFEE = "Black coffee is poured quickly into a mug of thick clay."
NEARLY = "a stone bridge over our river"
GIST = "a longer passage comes back as a gist of its beginning at best\n"
WORTH = "inverter tabled makes texts of some 32 tokens at most: " + GIST
ENCODER = HashingEncoder()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the collection `wiki`: chunk 0 is the bridge, chunk 1 is dead, chunk 2 is the coffee."""
    folder = tmp_path_factory.mktemp("decode")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
    for text in (TEA, COFFEE):
        pages = [{"page_id": 1, "title": "Bridge", "text": BRIDGE}, {"page_id": 2, "title": "Cups", "text": text}]
        (folder / "a.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
        source = open_source(folder / "a.jsonl", "jsonl")
        ingest(Collection(folder / "home" / "collections" / "wiki"), [source], choices)
    return folder / "home"


@pytest.fixture
def inverter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tabled:
    """What any inverter is opened as; one came with the program."""
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "shipped")
    write_inverter(tmp_path / "shipped" / FOLDER / "tabled")
    tabled = Tabled([NEARLY, "a cup of tea", "a mug of coffee"], {NEARLY: [BRIDGE]})
    open_as(monkeypatch, tabled)
    return tabled


def decode(home: Path, *arguments: str | Path) -> Result:
    """In this process; an exception that escapes the command fails the test."""
    given = ["--home", str(home), "decode", *map(str, arguments)]
    return CliRunner(catch_exceptions=False).invoke(main, given)


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def refused(result: Result, said: str) -> None:
    assert result.exit_code == 2, result.stdout
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert re.search(said, result.stderr.rstrip("\n").removeprefix("error: ")), result.stderr


# -- what is said --------------------------------------------------------------------------------------------------


def test_a_chunk_is_shown_beside_what_its_vector_became(made: Path, inverter: Tabled) -> None:
    result = decode(made, "--chunk", "0")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        f"Bridge  (chunk 0)\n   the text: {BRIDGE}\n   the gist: {BRIDGE}\n"
        f"   its vector has cosine 1.000 to the one asked for; found after 1 step\n{WORTH}"
    )
    assert re.fullmatch(r"the first texts took \d\.\d s; all will take up to about \d\.\d s\n", result.stderr)


def test_without_steps_the_first_texts_are_all_there_is(made: Path, inverter: Tabled) -> None:
    result = decode(made, "--chunk", "0", "--steps", "0")
    cosine = float((ENCODER.encode([NEARLY]) @ ENCODER.encode([BRIDGE]).T)[0, 0])
    assert f"the gist: {NEARLY}\n   its vector has cosine {cosine:.3f} to the one" in result.stdout
    assert "found as first proposed" in result.stdout
    assert (inverter.asked, result.stderr) == ([], "")


def test_a_text_is_embedded_by_the_collections_encoder(made: Path, inverter: Tabled) -> None:
    result = decode(made, "--text", " a mug\nof coffee ", "--quiet")
    assert result.stdout == (
        "   the text: a mug of coffee\n   the gist: a mug of coffee\n"
        f"   its vector has cosine 1.000 to the one asked for; found as first proposed\n{WORTH}"
    )
    assert result.stderr == ""


def test_a_text_too_long_for_the_inverter_is_said_to_come_back_as_a_gist(made: Path, inverter: Tabled) -> None:
    note = "note: the text has 25 words, inverter tabled makes texts of at most 32 tokens (some 24 words): what comes"
    assert decode(made, "--text", "bridge " * 25).stderr.startswith(note)
    assert "note" not in decode(made, "--text", "bridge " * 24).stderr
    assert decode(made, "--text", "bridge " * 25, "--quiet").stderr == ""


def test_the_vectors_of_a_file_come_back_in_their_order(made: Path, inverter: Tabled, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ENCODER.encode(["a mug of coffee", BRIDGE, "a cup of tea"]))
    result = decode(made, "--vector", tmp_path / "v.npy", "--quiet")
    lines = result.stdout.splitlines()
    assert lines[::3] == ["row 0", "row 1", "row 2", WORTH.strip()]
    assert lines[1::3] == ["   the gist: a mug of coffee", f"   the gist: {BRIDGE}", "   the gist: a cup of tea"]


def test_json_is_a_line_a_vector(made: Path, inverter: Tabled, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ENCODER.encode([BRIDGE, "a cup of tea"]).astype(np.float16))
    first, second = rows(decode(made, "--vector", tmp_path / "v.npy", "--json"))
    assert first == {
        "text": BRIDGE,
        "cosine": pytest.approx(1.0, abs=1e-3),
        "step": 1,
        "inverter": "tabled",
        "space": str(ENCODER.fingerprint),
        "longest": 32,
        "of": {"file": str(tmp_path / "v.npy"), "row": 0},
    }
    assert (second["text"], second["step"], second["of"]["row"]) == ("a cup of tea", 0, 1)
    (chunk,) = rows(decode(made, "--chunk", "2", "--json"))
    assert chunk["of"] == {"chunk_id": 2, "title": "Cups", "section": "", "text": COFFEE}
    (text,) = rows(decode(made, "--text", "tea", "--json"))
    assert text["of"] == {"text": "tea"}


def test_a_vector_for_which_no_words_came_is_told_so(made: Path, inverter: Tabled) -> None:
    inverter.first = []
    assert "   the gist: (no words came)\n" in decode(made, "--chunk", "0").stdout
    assert rows(decode(made, "--chunk", "0", "--json"))[0]["text"] == ""


def test_the_beam_and_the_steps_asked_for_are_taken(made: Path, inverter: Tabled) -> None:
    decode(made, "--chunk", "0", "--beam", "1", "--steps", "3")
    assert inverter.asked == [[NEARLY], [BRIDGE]]


def test_a_time_limit_is_told_when_it_came_first(made: Path, inverter: Tabled) -> None:
    result = decode(made, "--chunk", "0", "--steps", "9", "--time-limit", "1e-9")
    assert f"the gist: {NEARLY}" in result.stdout
    assert result.stderr.endswith("the time limit of 1e-09 s came after 0 of 9 steps\n")


def test_an_inverter_of_the_collections_own_is_taken_by_name(made: Path, inverter: Tabled, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    write_inverter(home / "collections" / "wiki" / "models" / "inverters" / "mine")
    for name in ("mine", "tabled"):
        assert decode(home, "--chunk", "0", "--inverter", name).exit_code == 0
    refused(decode(home, "--chunk", "0", "--inverter", "other"), r'no inverter "other" .*\(there are: mine, tabled\)')


# -- bad input -----------------------------------------------------------------------------------------------------

ONE_OF = "say what to decode: one of --chunk, --text or --vector"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], f"{ONE_OF}$"),
        (["--chunk", "0", "--text", "x"], f"{ONE_OF}, not 2 of them"),
        (["--chunk", "0", "--text", "x", "--vector", "x"], f"{ONE_OF}, not 3 of them"),
        (["--chunk", "3"], "no chunk has the id 3; ids are 0 to 2"),
        (["--chunk", "-1"], "no chunk has the id -1"),
        (["--chunk", "9" * 40], "no chunk has the id 9{40}"),
        (["--chunk", "1"], "chunk 1 is dead: its article was changed or removed"),
        (["--text", ""], "the text is empty"),
        (["--text", " \n "], "the text is empty"),
        (["--text", "?!"], "vector 0 has length zero"),
        (["--text", "\udcff"], "vector 0 has length zero"),
        (["--text", "x" * 10_001], "the text has 10,001 characters"),
        (["--text", "x", "--steps", "1000"], "--steps is between 0 and 50, not 1000"),
        (["--text", "x", "--steps", "-1"], "--steps is between 0 and 50, not -1"),
        (["--text", "x", "--beam", "0"], "--beam is between 1 and 16, not 0"),
        (["--text", "x", "--time-limit", "0"], "--time-limit is a number of seconds above 0"),
        (["--text", "x", "--time-limit", "nan"], "--time-limit is a number of seconds above 0"),
        (["--text", "x", "--inverter", "other"], 'there is no inverter "other" .*there are: tabled'),
        (["--text", "x", "--inverter", "a b"], "'a b' is not a name"),
        (["--text", "x", "--inverter", "../tabled"], "no published inverter '../tabled': give a folder that holds"),
        (["--text", "x", "--inverter", "gtr-base"], "inverter gtr-base is for vectors of gtr_base .* from hashing"),
        (["--text", "x", "-c", "nowhere"], 'there is no collection "nowhere"'),
        (["--vector", "/no/such/file"], "cannot read /no/such/file: No such file"),
        (["--vector", "/"], "/ is no file; expected a .npy file"),
        (["--vector", "/dev/zero"], "/dev/zero is no file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(made: Path, inverter: Tabled, arguments: list[str], said: str) -> None:
    refused(decode(made, *arguments), said)


def test_an_effort_out_of_reason_is_told_before_anything_is_opened(made: Path) -> None:
    refused(decode(made, "--chunk", "0", "-c", "nowhere", "--steps", "1000"), "--steps is between 0 and 50")


def test_without_an_inverter_it_says_what_to_type(made: Path, inverter: Tabled) -> None:
    shutil.rmtree(models.SHIPPED)
    refused(decode(made, "--text", "x"), "wiki has no inverter .* run: lookahead train inverter --collection wiki")


def test_an_encoder_that_is_not_the_inverters_is_refused(
    made: Path, inverter: Tabled, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_as(monkeypatch, Tabled([], probe=-ENCODER.encode(["something else"])[0]))
    refused(decode(made, "--text", "x"), "inverter tabled is for hashing .* places a probe text elsewhere")


# -- hostile files -------------------------------------------------------------------------------------------------


def saved(array: Any, **how: Any) -> bytes:
    raw = io.BytesIO()
    np.save(raw, array, **how)
    return raw.getvalue()


def with_header(said: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file of any header."""
    text = said.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version[:1] == b"\x01" else 4, "little") + text + data


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/lookahead-was-unpickled",)


ONES = np.ones((2, 128), dtype=np.float32)
SOUND = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 128)}"
SHORT = with_header(SOUND, b"\0" * 1023)
MINUS = with_header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "-" * 9000 + "1}")
ENDLESS = with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 400 + ", 128)}")
NESTED = with_header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 4000 + ")" * 4000 + "}")
CALL = with_header("{'descr': __import__('os').mkdir('/tmp/lookahead-was-run'), 'fortran_order': False, 'shape': (1,)}")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "is damaged, or no .npy file"),
        (b"1,2,3\n", "is damaged, or no .npy file"),
        (saved(ONES)[:50], "is damaged, or no .npy file"),
        (saved(ONES)[:-1], "it is cut short or goes on behind them: 1,023 bytes of data"),
        (saved(ONES) + b"\0", "it is cut short or goes on behind them: 1,025 bytes"),
        (SHORT, "it is cut short"),
        (ENDLESS, "n is 1 to 10,000"),
        (NESTED, "is damaged, or no .npy file"),
        (CALL, "is damaged, or no .npy file"),
        (with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 128)}"), "n is 1 to 10,000"),
        (with_header("{}"), "is damaged, or no .npy file"),
        (with_header("x" * 60_000), "is damaged, or no .npy file"),
        (with_header("x", version=b"\x02\x00")[:8] + b"\xff" * 4, "is damaged, or no .npy file"),
        (with_header(SOUND, ONES.tobytes(), version=b"\x09\x00"), "is damaged, or no .npy file"),
        (MINUS, "is damaged, or no .npy file"),
        (b"PK\x03\x04" + saved(ONES), "is damaged, or no .npy file"),
        (saved(np.array([Bomb()] * 128, dtype=object), allow_pickle=True), r"holds object \(128,\); expected"),
        (saved(np.ones(128, dtype=np.int64)), r"holds int64 \(128,\); expected a .npy file of floats"),
        (saved(np.ones(128, dtype=np.complex64)), "holds complex64"),
        (saved(np.array(["x"] * 128)), "holds str"),
        (saved(np.zeros(128, dtype=[("x", "<f4")])), "holds void"),
        (saved(np.ones(127)), r"holds float64 \(127,\); .* floats, \(128,\) or \(n, 128\)"),
        (saved(np.ones((128, 2))), r"holds float64 \(128, 2\)"),
        (saved(np.ones((1, 1, 128))), r"holds float64 \(1, 1, 128\)"),
        (saved(np.float64(1)), r"holds float64 \(\)"),
        (saved(np.ones((0, 128))), "n is 1 to 10,000"),
        (saved(np.ones((10_001, 128), dtype=np.float16)), "n is 1 to 10,000"),
        (saved(np.full(128, np.nan)), "vector 0 holds NaN or infinity"),
        (saved(np.vstack([ONES, np.full((1, 128), np.inf)])), "vector 2 holds NaN or infinity"),
        (saved(np.full(128, 1e300)), "vector 0 holds NaN or infinity"),
        (saved(np.full(128, 1e20)), "vector 0 has length 1e\\+21: no encoder makes such vectors"),
        (saved(np.zeros(128)), "vector 0 has length zero: it points nowhere"),
    ],
)
def test_a_hostile_file_is_one_line(made: Path, inverter: Tabled, tmp_path: Path, raw: bytes, said: str) -> None:
    (tmp_path / "v.npy").write_bytes(raw)
    shutil.rmtree(models.SHIPPED)  # it is read before an inverter is looked for
    refused(decode(made, "--vector", tmp_path / "v.npy"), said)
    assert not list(Path("/tmp").glob("lookahead-was-*"))


@pytest.mark.parametrize(
    ("header", "version"),
    [(SOUND, b"\x01\x00"), (SOUND, b"\x02\x00"), (SOUND.replace("2,", "2L,"), b"\x01\x00")],  # as Python 2 wrote it
)
def test_a_sound_file_of_another_age_is_read(tmp_path: Path, header: str, version: bytes) -> None:
    (tmp_path / "v.npy").write_bytes(with_header(header, ONES.tobytes(), version))
    assert read_vectors(tmp_path / "v.npy", 128).tolist() == ONES.tolist()


def test_a_file_larger_than_any_that_is_read_is_not_read(made: Path, inverter: Tabled, tmp_path: Path) -> None:
    with (tmp_path / "v.npy").open("wb") as file:  # a header of four gigabytes, of which none is on the disk
        file.write(b"\x93NUMPY\x02\x00\xff\xff\xff\xff")
        file.truncate(2**32)
    refused(decode(made, "--vector", tmp_path / "v.npy"), r"v\.npy has 4\.3 GB: more than 10,000 vectors")


def test_a_file_that_may_not_be_read_and_a_pipe_are_one_line(
    made: Path, inverter: Tabled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(decode(made, "--vector", tmp_path / "pipe"), "pipe is no file")
    (tmp_path / "link").symlink_to(tmp_path / "link")
    refused(decode(made, "--vector", tmp_path / "link"), "cannot read .*link: Too many levels of symbolic links")


@pytest.mark.parametrize("kind", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "g"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floats_of_any_width_and_order_are_read(tmp_path: Path, kind: str, order: Any) -> None:
    wanted = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    np.save(tmp_path / "v.npy", np.asarray(wanted.astype(kind), order=order))
    found = read_vectors(tmp_path / "v.npy", 4)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.tolist() == wanted.tolist()
    np.save(tmp_path / "v.npy", wanted[0].astype(kind))
    assert read_vectors(tmp_path / "v.npy", 4).tolist() == wanted[:1].tolist()


@given(st.one_of(st.binary(max_size=200), st.integers(0, 2000)), st.binary(max_size=8))
@settings(max_examples=150)
def test_whatever_bytes_a_file_has_it_is_read_or_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, start: bytes | int, other: bytes
) -> None:
    """Any bytes behind the magic, or a sound file with some bytes replaced."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.npy"
    if isinstance(start, bytes):
        path.write_bytes(b"\x93NUMPY\x01\x00" + start + other)
    else:
        raw = bytearray(saved(ONES[:, :4]))
        place = start % len(raw)
        raw[place : place + len(other)] = other
        path.write_bytes(raw)
    try:
        found = read_vectors(path, 4)
    except LookaheadError as error:
        said = str(error)
    else:
        said = ""
        assert found.shape in ((1, 4), (2, 4))
    assert "\n" not in said


# -- help ----------------------------------------------------------------------------------------------------------


def test_help_has_examples_and_the_command_is_listed(made: Path) -> None:
    told = decode(made, "--help")
    assert told.exit_code == 0
    assert "lookahead decode --chunk 1234" in told.stdout
    listed = CliRunner().invoke(main, ["--help"])
    assert re.search(r"^  decode +Turn a vector back into words", listed.stdout, re.MULTILINE)


def test_the_published_ones_folder_is_handed_over_as_it_was_typed(
    made: Path, inverter: Tabled, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Published:
        @staticmethod
        def open(spec: str, space: object, *, download: bool) -> Tabled:
            assert (spec, space, download) == ("a/b,c/d", ENCODER.fingerprint, True)
            return inverter

    monkeypatch.setattr(open_inverter, "PublishedInverter", Published)
    assert decode(made, "--chunk", "0", "--inverter", "a/b,c/d").exit_code == 0
