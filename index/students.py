"""Encoders made here: where they are kept, what each says of itself, and whether it may be used.

It does not know how a student is trained or judged; `student.json` in its folder holds the verdict and its reasons.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from index.encoder import BUNDLED, HASHING, INT8, POOLED, Encoder, folder_of, lasting, prepare
from index.progress import say
from store.generations import write_atomically
from store.records import LookaheadError

STUDENT = "student.json"
FORMAT = 1
_SHIPPED = ("data", "models", "encoders")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Status(StrEnum):
    """`FAILED` is a student that did not come near enough to its teacher to be of use."""

    USABLE = "usable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Student:
    """What a student's folder says of it: the verdict with its reasons, its teacher's space and how it was made."""

    status: Status
    reasons: tuple[str, ...]
    teacher: dict[str, Any]  # a fingerprint
    figures: dict[str, float]
    made: dict[str, Any] = field(default_factory=dict)  # command, recipe, data, seconds

    def as_json(self) -> dict[str, Any]:
        """A figure that is no number is null: JSON knows no NaN."""
        return {**asdict(self), "figures": {name: _finite(value) for name, value in self.figures.items()}}

    def write(self, folder: Path) -> None:
        raw = json.dumps({"format": FORMAT, **self.as_json()}, indent=1, ensure_ascii=False)
        write_atomically(folder / STUDENT, raw.encode())


def read_student(folder: Path) -> Student | None:
    """What the folder says, or None for a model that is nobody's student."""
    path = folder / STUDENT
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if fault := _fault_in(raw):
            raise ValueError(fault)
    except OSError as error:
        raise LookaheadError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise LookaheadError(f"{path} does not say what the model is worth: {reason}; distil it again") from error
    return Student(
        status=Status(raw["status"]),
        reasons=tuple(" ".join(reason.split()) for reason in raw["reasons"]),
        teacher=raw["teacher"],
        figures={name: math.nan if value is None else value for name, value in raw["figures"].items()},
        made=raw["made"],
    )


def refuse_failed(spec: str, *, force: bool = False) -> None:
    """Raises where `spec` names a student that failed, unless `force`."""
    if force:
        return
    if failed := failure_of(spec):
        raise LookaheadError(f"{failed}; train it further, take another --encoder, or add --force-encoder")


def failure_of(spec: str) -> str | None:
    """In a sentence why the student that `spec` names the folder of must not be used, its pooled vectors and its twin
    in eight bits neither; None for any other model."""
    folder = folder_of(spec.removeprefix(POOLED)) if spec not in (BUNDLED, HASHING) else None
    for place in (folder, folder.parent if folder is not None and folder.name == INT8 else None):
        student = read_student(place) if place is not None else None
        if student is not None and student.status is Status.FAILED:
            return f"the student in {place} failed: {'; '.join(student.reasons)}"
    return None


def encoders_folder(home: Path) -> Path:
    """Where distilled models are kept."""
    return home / "encoders"


def shipped_encoders() -> Path:
    """Those that come with the program."""
    return Path(__file__).resolve().parent.parent.joinpath(*_SHIPPED)


def check_encoder_name(name: str) -> str:
    """The name, if a model of ours can be kept under it."""
    if not _NAME.fullmatch(name) or name in (BUNDLED, HASHING) or (shipped_encoders() / name).is_dir():
        raise LookaheadError(
            f"{name!r} is no name for an encoder; use small letters, digits, '.', '-' and '_', and none that came "
            "with the program, such as layers-3"
        )
    return name


def find_encoder(spec: str, home: Path) -> str:
    """`spec` itself, or the folder where it is the name of a model distilled here or that came with the program."""
    found = _found(spec, home)
    if found is None and _may_be_ours(spec) and not Path(spec).exists():  # a hub knows names without an owner too
        say(
            f"no encoder made here is called {spec!r} (there are: {', '.join(encoder_names(home))}); asking the hub",
            quiet=False,
        )
    return spec if found is None else str(found)


def same_model(one: str, other: str) -> bool:
    """Whether two specs mean one model: the same folder, or the same that came with the program, wherever the program
    stood when it was written down."""
    tails = [Path(spec).parts[-len(_SHIPPED) - 1 :] for spec in (one, other)]
    shipped = tails[0] == tails[1] and tails[0][:-1] == _SHIPPED
    return shipped or lasting(one) == lasting(other)


def _may_be_ours(spec: str) -> bool:
    return spec not in (BUNDLED, HASHING) and _NAME.fullmatch(spec) is not None


def _found(spec: str, home: Path) -> Path | None:
    places = (encoders_folder(home) / spec, shipped_encoders() / spec) if _may_be_ours(spec) else ()
    return next((place.resolve() for place in places if place.is_dir()), None)


def encoder_names(home: Path) -> list[str]:
    """The bundled one, those distilled here and those that came with the program; students that failed too."""
    places = [place for place in (encoders_folder(home), shipped_encoders()) if place.is_dir()]
    names = {path.name for place in places for path in place.iterdir() if path.is_dir()}
    return [BUNDLED, *sorted(name for name in names - {BUNDLED} if not name.startswith("."))]


def int8_of(spec: str, home: Path) -> Path:
    """Where the eight-bit twin of a model is, or would be, kept."""
    folder = _found(spec, home) or Path(spec)
    if spec != BUNDLED and folder.is_dir():
        return folder / INT8
    # a hub's name without an owner would make a folder that `find_encoder` takes for the model
    name = spec if spec == BUNDLED or "/" in spec else f"hub--{spec}"
    return encoders_folder(home) / name.replace("/", "--") / INT8


@contextlib.contextmanager
def opened(spec: str, *, device: str = "cpu", note: Callable[[str], object] = lambda _: None) -> Iterator[Encoder]:
    """The encoder of a spec, made ready in a folder that is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="lookahead-encoder-", ignore_cleanup_errors=True) as folder:
        yield prepare(spec, Path(folder), device=device, note=note)


def _fault_in(raw: object) -> str:
    """What makes parsed JSON no student's, or nothing."""
    if not isinstance(raw, dict):
        return "it is no table"
    if raw.get("format") != FORMAT:
        return f"its format is {json.dumps(raw.get('format'))[:40]}, this program reads {FORMAT}"
    names = {"format", *(one.name for one in fields(Student))}
    if raw.keys() != names:
        return f"missing or unknown: {', '.join(sorted(map(repr, raw.keys() ^ names)))[:200]}"
    if raw["status"] not in [status.value for status in Status]:
        return f"its status is {json.dumps(raw['status'])[:40]}"
    types = {"reasons": list, "teacher": dict, "figures": dict, "made": dict}
    if wrong := [name for name, of in types.items() if type(raw[name]) is not of]:
        return f"mistyped: {', '.join(wrong)}"
    if not all(isinstance(reason, str) for reason in raw["reasons"]):
        return "its reasons are no sentences"
    if not all(value is None or type(value) in (int, float) for value in raw["figures"].values()):
        return "its figures are no numbers"
    return ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
