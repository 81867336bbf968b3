"""What `predict-next` and `embed` are asked and answer, and what is told of evaluations: types, and rows for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from retrieval.gists import Worded
from retrieval.predict import Context, Prediction, Truth
from retrieval.search_rows import as_dict
from retrieval.service.answers import Answer
from retrieval.service.settings import LONGEST_TEXT, LONGEST_TITLE, MOST_RESULTS, MOST_TEXTS

MOST_CORRECTIONS = 5  # each takes a second or more


def _utf8(text: str) -> str:
    """JSON can spell halves of letters, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


Text = Annotated[str, AfterValidator(_utf8)]
Name = Annotated[Text, Field(min_length=1, max_length=100)]


class PredictNext(BaseModel):
    """After what to look ahead, exactly one of text, page_id and title, and how."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"title": "Isaac Newton", "position": 12, "k": 5}},
    )

    text: Text | None = Field(None, description="one or several paragraphs")
    page_id: int | None = None
    title: Text | None = Field(None, max_length=LONGEST_TITLE)
    position: int | None = Field(None, description="a place in the article, from 1; null is the place after its end")
    k: int = Field(5, ge=1, le=MOST_RESULTS)
    model: Name | None = Field(None, description="a model's name; null is the collection's best")
    rerank: bool | None = Field(None, description="null: where the model has a reranker")
    include_context: bool = Field(False, description="what the prediction was made from may answer too")
    decode: bool = Field(False, description="put the prediction into words as well: a gist at best")
    steps: int = Field(1, ge=0, le=MOST_CORRECTIONS, description="how often a gist is corrected")
    inverter: Name | None = Field(None, description="an inverter's name; null is the first that fits")
    map: bool = Field(False, description="where context, prediction, truth and candidates lie, in a plane")
    collection: Name | None = None


class Way(Answer):
    model: str
    tower: bool
    reranked: bool
    candidates: int
    assist: int
    variety: float | None


class ReadContext(Answer):
    """What a prediction was made from: `texts` are its last chunks, `chunks` how many there were."""

    texts: list[str]
    chunks: int
    page_id: int | None
    title: str | None
    position: int | None
    chunk_count: int | None


class Expected(Answer):
    """A chunk that may come next, as `search` has its results."""

    rank: int
    score: float
    chunk_id: int
    page_id: int
    position: int
    title: str
    section: str
    text: str
    dense: float | None
    dense_rank: int | None
    lexical: float | None
    lexical_rank: int | None
    closeness: float | None
    true_next: bool


class TrueNext(Answer):
    """The chunk that does come next: `rank` among all `among` that could answer, `place` among the results."""

    rank: int
    score: float
    chunk_id: int
    page_id: int
    position: int
    title: str
    section: str
    text: str
    dense: float | None
    dense_rank: int | None
    lexical: float | None
    lexical_rank: int | None
    closeness: float | None
    cosine: float
    copied_rank: int
    among: int
    place: int | None


class GistOf(Answer):
    """Words found for a vector. They read like a text and are none: a topic at best, names and numbers invented."""

    of: Literal["prediction", "truth", "copy-last"]
    text: str
    cosine: float
    step: int
    to_truth: float | None


class MapPoint(Answer):
    what: Literal["context", "prediction", "truth", "candidate"]
    x: float
    y: float
    rank: int | None
    chunk_id: int | None
    page_id: int | None
    position: int | None
    label: str


class Map(Answer):
    """The plane of the two widest directions, and which share of the spread each of them tells."""

    explained: tuple[float, float]
    points: list[MapPoint]


class PredictedAnswer(Answer):
    collection: str
    generation: str
    took_ms: float
    model: str
    way: Way
    context: ReadContext
    truth: TrueNext | None
    results: list[Expected]
    notes: list[str]
    gists: list[GistOf] | None
    gist_notes: list[str]
    map: Map | None


class Embed(BaseModel):
    """Texts and who is to place them in a space."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"model": "bundled", "input": ["Your text here"], "as": "document"}},
    )

    model: Name = "bundled"
    input: (
        Annotated[Text, Field(max_length=LONGEST_TEXT)]
        | Annotated[list[Annotated[Text, Field(max_length=LONGEST_TEXT)]], Field(min_length=1, max_length=MOST_TEXTS)]
    )
    as_: Literal["document", "query"] = Field("document", alias="as")

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class EmbeddedAnswer(Answer):
    embeddings: list[list[float]]
    dim: int
    model: str


class EvaluationRow(Answer):
    kind: str
    made: str
    command: str
    files: list[str]


class EvaluationsAnswer(Answer):
    collection: str
    evaluations: list[EvaluationRow] = Field(description="Newest first.")


# -- rows of an answer -------------------------------------------------------------------------------------


def prediction_dict(prediction: Prediction) -> dict[str, Any]:
    """What a prediction answers, without words and without a map."""
    truth = prediction.truth
    place = None if truth is None else truth.place
    return {
        "model": prediction.way.model,
        "way": asdict(prediction.way),
        "context": _context_dict(prediction.context),
        "truth": None if truth is None else _truth_dict(truth),
        "results": [
            {**as_dict(rank, passage), "true_next": rank == place}
            for rank, passage in enumerate(prediction.passages, 1)
        ],
        "notes": list(prediction.notes),
    }


def gist_dict(one: Worded) -> dict[str, Any]:
    return {
        "of": one.of,
        "text": one.gist.text,
        "cosine": round(one.gist.cosine, 6),
        "step": one.gist.step,
        "to_truth": None if one.to_truth is None else round(one.to_truth, 6),
    }


def _context_dict(context: Context) -> dict[str, Any]:
    row = context.article
    return {
        "texts": list(context.texts),
        "chunks": context.chunks,
        "page_id": None if row is None else row.page_id,
        "title": None if row is None else row.title,
        "position": context.position,
        "chunk_count": None if row is None else row.chunk_count,
    }


def _truth_dict(truth: Truth) -> dict[str, Any]:
    return {
        **as_dict(truth.rank, truth.passage),
        "cosine": round(truth.cosine, 6),
        "copied_rank": truth.copied,
        "among": truth.among,
        "place": truth.place,
    }
