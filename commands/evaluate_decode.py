"""`lookahead evaluate decode`: what texts decoded from vectors are worth, of true vectors and of predicted ones."""

from __future__ import annotations

import json
from pathlib import Path

import click

from commands.common import (
    SEED,
    collection_option,
    existing_collection,
    hush_at_exit,
    json_option,
    keep_report,
    print_json,
    typed,
)

_WINDOWS = 200  # fewer are too few for a card


@click.command("decode")
@collection_option
@click.option("--inverter", metavar="NAME", help="Which inverter.  [default: the first that fits]")
@click.option("--model", metavar="NAME", help="Whose predictions.  [default: the best by cosine that has no P tower]")
@click.option(
    "--windows", type=click.IntRange(2), default=_WINDOWS, show_default=True, help="How many, drawn with --seed."
)
@click.option(
    "--split", type=click.Choice(["test", "valid"]), default="test", show_default=True, help="Whose articles."
)
@click.option("--steps", type=int, metavar="N", help="How often a text is corrected, 0 to 50.  [default: 1]")
@click.option("--beam", type=int, metavar="N", help="How many texts are kept to be corrected, 1 to 16.  [default: 8]")
@click.option("--bank", type=click.IntRange(1), metavar="N", help="Training spans looked through.  [default: all]")
@click.option("--examples", type=click.IntRange(0), default=20, show_default=True, help="Windows shown in full.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of every draw and of the bootstrap.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for decode.json, .md and .html.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_obj
def decode(
    home: Path,
    name: str | None,
    inverter: str | None,
    model: str | None,
    windows: int,
    split: str,
    steps: int | None,
    beam: int | None,
    bank: int | None,
    examples: int,
    seed: int,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Decode vectors whose text is known and vectors that were predicted, and compare what comes out with the truth.

    The first table asks what the inverter is worth: it gets the vector of a span that it never saw, the beginning of a
    chunk, and is held against the nearest span of the training articles. The second asks what the gist of a prediction
    is worth: decodes of the predicted vector, of the last chunk's, of the mean and of the true one, and the nearest
    real chunk, all against the true next chunk.

    Texts are as short as the inverter makes them and chunks are longer, so that a decode is a gist of a chunk's
    beginning at best. A text can read well and be wrong.

    The spans of the training articles are embedded once for each generation of the collection, at some hundred a
    second and core, and kept beside its inverters; --bank takes fewer. With --json the report is one JSON document.

    \b
    Examples:
      lookahead evaluate decode --collection wiki --out out/decode
      lookahead evaluate decode -c wiki --windows 50 --bank 20000 --steps 0
      lookahead evaluate decode -c wiki --model residual-cosine --json | jq .end_to_end
    """
    from functools import partial

    import numpy as np

    from index.encoder import open_encoder
    from index.layout import ENCODER
    from retrieval.decode_page import page
    from retrieval.decode_report import DecodeReport
    from retrieval.evaluate_decode import ask, decoding_model, drawn_windows, enough, judge
    from retrieval.evaluate_next import predictions
    from retrieval.inversion import BEAM, STEPS, check_effort
    from retrieval.inverters import InverterConfig, write_inverter_metrics
    from retrieval.models import trained_on
    from retrieval.open_inverter import open_decoder, own_inverter
    from retrieval.runtime import CompiledPredictor
    from retrieval.search import Searcher
    from retrieval.sequences import Sequences, needed
    from retrieval.span_bank import open_bank
    from retrieval.spans import leading, tokenizer_in
    from store.generations import write_atomically
    from store.records import Split

    quiet = quiet or as_json
    steps, beam = STEPS if steps is None else steps, BEAM if beam is None else beam
    check_effort(steps, beam, None)
    collection = existing_collection(home, name)
    with Searcher.open(collection) as searcher:
        sequences = Sequences(searcher.store.articles(Split(split)), searcher.vectors)
        there = needed(sequences, Split(split), collection.name, 1)
        asked_of = drawn_windows(there, windows, seed)
        enough(asked_of, f"{collection.name}, {split} split")
        found = decoding_model(collection, searcher.fingerprint, model)
        predictor = CompiledPredictor.open(found.folder)
        hush_at_exit()
        decoder = open_decoder(searcher, inverter)
        own = own_inverter(decoder)
        longest = decoder.inverter.longest
        folder = searcher.generation.path / ENCODER
        lead = partial(leading, tokenizer_in(folder), longest=longest)
        encoder = open_encoder(folder, bulk=True)
        spans = open_bank(searcher, encoder, lead, longest, most=bank, seed=seed, quiet=quiet)
        train = Sequences(searcher.store.articles(Split.TRAIN), searcher.vectors).ids()
        predicted = predictions(predictor.predict, sequences, asked_of)
        asked = ask(searcher, sequences, asked_of, predicted, lead, train)
        outcome = judge(searcher, asked, decoder, encoder, lead, spans, steps=steps, beam=beam, seed=seed, quiet=quiet)
        titles = [one.title for one in searcher.store.chunks(outcome.nearest.tolist())]
    notes = []
    if len(asked_of) < windows:
        notes.append(f"these are all the windows there are, {windows:,} were asked for")
    if len(asked_of) > len(np.unique(asked_of.article)):
        notes.append("some articles give several windows; the intervals draw articles as wholes")
    if found.config.tower:
        notes.append(
            f"model {found.name} has a P tower: it predicts in the tower's space, which is not quite the one that is "
            "decoded here"
        )
    if trained_on(found) != collection.name:
        notes.append(f"model {found.name} was trained on {trained_on(found)}")
    if own is None:
        notes.append(
            f"what inverter {decoder.inverter.name} was trained on is not known here: it may have seen these texts"
        )
    elif own.config.trained.get("data", {}).get("collection") != collection.name:
        notes.append(f"inverter {own.name} was trained on {own.config.trained.get('data', {}).get('collection', '?')}")
    notes.append(
        "an article's split is a hash of its page id, so that what was trained on the train split of another "
        "collection of the same Wikipedia has not seen these articles either"
    )
    report = DecodeReport.of(
        outcome,
        titles,
        collection=collection.name,
        split=split,
        encoder=searcher.fingerprint,
        inverter=decoder.inverter.name,
        longest=longest,
        steps=steps,
        beam=beam,
        model=found.name,
        examples=examples,
        notes=notes,
        command=typed(),
        seed=seed,
    )
    if as_json:
        print_json(report.as_json())
    else:
        click.echo(report.table())

    def write(folder: Path) -> list[str]:
        raw = json.dumps(report.as_json(every=True), indent=1, ensure_ascii=False)
        write_atomically(folder / "decode.json", raw.encode("utf-8", "replace"))
        write_atomically(folder / "decode.md", "\n".join(report.markdown()).encode("utf-8", "replace"))
        return ["decode.json", "decode.md"]

    keep_report(collection, "decode", write, out)
    if out is not None:
        write_atomically(out / "decode.html", page(report).encode("utf-8", "replace"))
        click.echo(f"decode.json, decode.md and decode.html are in {out.absolute()}", err=True)
    usual = (split, bank, steps, beam) == ("test", None, STEPS, BEAM) and len(asked_of) >= _WINDOWS
    if usual and own is not None and not own.shipped and InverterConfig.read(own.folder) == own.config:
        # one that was trained again meanwhile is another one
        write_inverter_metrics(own.folder, own.name, own.config, report.markdown(), report.command)
