"""`lookahead demo`: the bundled sample ingested, three questions answered, one look ahead, and what to try next."""

from __future__ import annotations

from pathlib import Path

import click

from commands.common import SAMPLE_COLLECTION

QUESTIONS = (
    "who built the first programmable computer",
    "creature that survives being frozen and dried out",
    "why did builders put buttresses outside the walls",
)
ARTICLE, POSITION = "Tardigrade", 8


@click.command()
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Ingest the bundled sample, answer three questions and look ahead once. Nothing is downloaded.

    \b
    Example:
      lookahead demo
    """
    from commands.ingest import in_words, sample_articles
    from commands.predict import show as show_prediction
    from commands.search import show
    from index.build import Choices, ingest
    from retrieval.predict import LookAhead
    from retrieval.search import Searcher, collection_at
    from store.sources import open_source

    home: Path = ctx.obj
    collection = collection_at(home, SAMPLE_COLLECTION)
    report = ingest(collection, [open_source(sample_articles())], Choices())
    click.echo(in_words(report, collection.path))
    with Searcher.open(collection) as searcher:
        for question in QUESTIONS:
            click.secho(f'\n$ lookahead search "{question}" -c sample -k 2', fg="green")
            show(searcher, question, searcher.search(question, 2), explain=False)
        click.secho(
            f'\n$ lookahead predict-next --article "{ARTICLE}" --position {POSITION} -c sample -k 2', fg="green"
        )
        look = LookAhead.open(searcher, texts=False, quiet=False)
        show_prediction(look, look.after(searcher.store.article_titled(ARTICLE), POSITION, 2), 2)
    click.echo(
        "\nNext:\n"
        '  .venv/bin/python cli.py search "your own question" -c sample --explain\n'
        '  .venv/bin/python cli.py predict-next --text "a paragraph of your own" -c sample\n'
        f'  .venv/bin/python cli.py predict-next --article "{ARTICLE}" --position {POSITION} -c sample -k 1 --decode\n'
        "  .venv/bin/python cli.py ingest DUMP.xml.bz2 --collection wiki   # or WikiExtractor output, or your notes\n"
        "  .venv/bin/python cli.py ingest --wikipedia simple -c simple       # downloads Simple English Wikipedia\n"
        "  .venv/bin/python cli.py evaluate search --questions data/sample/questions.tsv -c sample"
    )
