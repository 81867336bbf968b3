"""What searching, reading and asking about the service answer with, as OpenAPI tells it; nothing is checked against it.

Answers are made as plain rows, for speed; a test holds them to these types.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from store.records import Split


class Answer(BaseModel):
    """What all answers have in common: no field that is not described."""

    model_config = ConfigDict(extra="forbid")


class Result(Answer):
    """A passage that was found. Scores of one search may be compared with each other, not with another's."""

    rank: int = Field(description="From 1.")
    score: float
    chunk_id: int
    page_id: int
    position: int = Field(description="Which chunk of its article, from 0.")
    title: str
    section: str = Field(description="The heading it stands under; empty in the lead.")
    text: str
    dense: float | None = Field(description="Cosine to the query; null in mode lexical.")
    dense_rank: int | None = Field(description="Its rank by meaning alone; null outside that list's top.")
    lexical: float | None = Field(description="BM25; null in mode dense.")
    lexical_rank: int | None = Field(description="Its rank by words alone; null outside that list's top.")
    closeness: float | None = Field(
        description="The part of the query's words that stand close together; null if not read."
    )
    spans: list[tuple[int, int]] = Field(
        description="Where in the text words of the query stand: start and stop in Unicode code points."
    )


class SearchAnswer(Answer):
    collection: str
    generation: str
    query: str = Field(description="As it was read: without control characters, with single spaces.")
    mode: str
    took_ms: float
    results: list[Result] = Field(description="Best first; equal texts come once.")
    note: str | None = Field(description="Why fewer came back than were asked for.")


class ArticleTitle(Answer):
    page_id: int
    title: str
    chunk_count: int
    split: Split


class ArticlesAnswer(Answer):
    collection: str
    generation: str
    articles: list[ArticleTitle] = Field(description="Those whose title begins so come first.")


class Neighbour(Answer):
    """A chunk of an article that is known."""

    chunk_id: int
    position: int = Field(description="Counted from 0.")
    section: str
    text: str


class ArticleAnswer(Answer):
    collection: str
    generation: str
    page_id: int
    title: str
    split: Split
    source: str
    first_chunk: int = Field(description="An article's chunk ids are consecutive.")
    chunk_count: int
    start: int
    chunks: list[Neighbour] = Field(description="From position `start`; none after the article's end.")


class ReadChunk(Neighbour):
    page_id: int
    live: bool = Field(description="False for a chunk of a text that was changed or removed since.")


class ChunkAnswer(Answer):
    collection: str
    generation: str
    title: str = Field(description="Its page's present title; empty where that is gone.")
    chunk_count: int = Field(description="Chunks of its article; 0 for a chunk that is no longer live.")
    chunk: ReadChunk
    before: list[Neighbour]
    after: list[Neighbour]


class CollectionRow(Answer):
    name: str
    generation: str
    created: str
    articles: int
    chunks: int
    live: int = Field(description="Chunks that may answer.")
    dim: int
    encoder: str
    language: str | None
    default: bool


class CollectionsAnswer(Answer):
    collections: list[CollectionRow] = Field(description="Those that are served now.")


class EncoderRow(Answer):
    name: str
    dim: int | None
    fingerprint: str | None
    ready: bool = Field(description="Whether it embeds at once, or is opened first.")


class PredictorRow(Answer):
    collection: str
    name: str
    kind: str
    parameters: int
    valid_mrr: float = Field(description="MRR@50 on validation articles; 0 where it was not measured.")
    tower: bool = Field(description="Whether candidates go through a tower of its own.")
    reranker: bool = Field(description="Whether a reranker orders its best candidates anew.")
    default: bool


class InverterRow(Answer):
    collection: str
    name: str
    default: bool


class ModelsAnswer(Answer):
    encoders: list[EncoderRow]
    predictors: list[PredictorRow]
    inverters: list[InverterRow]


class HealthAnswer(Answer):
    status: str


class FaultRow(Answer):
    collection: str
    detail: str


class ReadyAnswer(Answer):
    status: str
    collections: list[str] = Field(description="Those that answer at once.")
    faults: list[FaultRow] = Field(description="What is wrong with others, or with newer generations of the same.")
