"""The published inverter: vec2text's own hypothesis and corrector models, built from a local folder or from the hub.

The only file that imports vec2text, and it does so inside its functions. It does not know what a vector stands for,
nor how texts are ranked (`inversion`).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.encoder import Fingerprint
from retrieval.inversion import PROBE
from store.records import LookaheadError

HUB = {"gtr-base": ("jxm/gtr__nq__32", "jxm/gtr__nq__32__correct")}  # as vec2text.api has them
PARTS = ("inversion", "corrector")
CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
_WANTED = ["*.json", "*.safetensors", "*.model"]  # of a hub's repository: no pickle is even fetched
_TWO_NAMES = re.compile(r"([\w.-]+/[\w.-]+),([\w.-]+/[\w.-]+)")
_AT_ONCE = 64  # sequences in memory together: rows × width
_CONVERT = (  # one shell word after `python -c`; the tensors alone are read of the pickle
    '"import glob,sys,torch;from safetensors.torch import save_file;[save_file({k:v.contiguous().clone() for f in '
    "glob.glob(d+'/pytorch_model*.bin') for k,v in torch.load(f,map_location='cpu',weights_only=True).items()},"
    "d+'/model.safetensors',{'format':'pt'}) for d in sys.argv[1:]]\""
)

# What the classes read of their configs; a config that lacks one of these fails deep inside them.
_READ = {
    "inversion": {
        "decoder_dropout_disabled": bool,
        "embedder_fake_with_zeros": bool,
        "embedder_model_api": type(None),
        "embedder_model_name": str,
        "embedder_no_grad": bool,
        "embeddings_from_layer_n": (int, type(None)),
        "encoder_dropout_disabled": bool,
        "max_seq_length": int,
        "model_name_or_path": str,
        "num_repeat_tokens": int,
        "use_frozen_embeddings_as_input": bool,
        "use_lora": bool,
    },
    "corrector": {
        "corrector_ignore_hypothesis_embedding": bool,
        "embedder_model_api": type(None),
        "max_seq_length": int,
        "model_name_or_path": str,
        "num_repeat_tokens": int,
    },
}

# Plain sentences, short and long, for the lengths of their vectors.
_PLAIN = (
    "The town lies on the left bank of the river.",
    "She was elected to the council in 1974 and served for three terms.",
    "It is found in forests from Portugal to the Caucasus, at heights of up to two thousand metres.",
    "The album sold forty thousand copies in its first week and was followed by a tour of nine countries.",
    "In mathematics, a group is a set with an operation that combines any two of its elements into a third.",
    "He died of pneumonia.",
    "Construction began in March 1912 but was stopped by the war, and the line was never finished.",
    PROBE,
)
_SLACK = 1.25  # a length this much beyond the longest and the shortest of those is still a text's

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be told of a space without a text; two of one kind may still be two spaces."""

    dim: int
    pooling: str
    dense: bool
    normalised: bool

    @classmethod
    def of(cls, space: Fingerprint) -> Kind:
        return cls(space.dim, space.pooling, space.dense, space.normalised)

    def __str__(self) -> str:
        layers = [self.pooling, *(["dense"] if self.dense else []), *(["normalised"] if self.normalised else [])]
        return f"{self.dim}d {'+'.join(layers)}"


@dataclass(frozen=True, slots=True)
class _Embedder:
    """An embedder by vec2text's name for it: where it is from, its kind, and how to ingest with it."""

    hub: str
    kind: Kind
    encoder: str


_GTR = "sentence-transformers/gtr-t5-base"
_EMBEDDERS = {
    "gtr_base": _Embedder(_GTR, Kind(768, "mean", dense=False, normalised=False), "gtr-t5-base"),
    "gtr_base_st": _Embedder(_GTR, Kind(768, "mean", dense=True, normalised=True), _GTR),
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A model's folder with what stands in its config."""

    folder: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]


class PublishedInverter:
    """vec2text's pair of models, called as its `Corrector` calls them, but for its trainers: those fetch from the hub.

    Where the space is not one of normalised vectors the models were trained on lengths too, and what they are given
    here may have another: a prediction has length one, a mean of vectors is short. A target whose length a text could
    have (`lengths`) keeps it, since a true vector's own is the best there is; any other is a direction only, and is
    given the typical `length`.
    """

    def __init__(
        self,
        name: str,
        space: Fingerprint,
        inversion: Any,
        corrector: Any,
        *,
        probe: Floats,
        length: float,
        lengths: tuple[float, float],
    ) -> None:
        self.name = name
        self.space = space
        self.length = length
        self.lengths = lengths
        self._most = min(int(inversion.config.max_seq_length), int(corrector.config.max_seq_length))
        self._inversion = inversion
        self._corrector = corrector
        self._probe = probe

    @classmethod
    def open(cls, spec: str | Path, space: Fingerprint, *, download: bool) -> PublishedInverter:
        """The pair that `spec` names: a folder with inversion/ and corrector/, `gtr-base`, or two names of the hub's,
        "owner/inversion,owner/corrector". Without `download` nothing is asked of a network; with it only for a pair
        that was named, and for what its configs name. Raises where vectors of `space` are not what it turns back."""
        local = all((Path(spec) / part).is_dir() for part in PARTS)
        name = Path(spec).resolve().name if local else str(spec)
        if name in HUB and not local:
            _refuse_other_kind(name, "gtr_base", _EMBEDDERS["gtr_base"].kind, space)  # before gigabytes are fetched
        download = download and not local
        if local:
            folders = [Path(spec) / part for part in PARTS]
        else:
            folders = [_from_hub(one, f"inverter {name}", download=download) for one in _repositories(name)]
        configs = [_config(folder, part) for folder, part in zip(folders, PARTS, strict=True)]
        embedder = configs[0]["embedder_model_name"]
        if embedder in _EMBEDDERS:
            _refuse_other_kind(name, embedder, _EMBEDDERS[embedder].kind, space)
        elif not embedder.startswith("sentence-transformers/"):
            raise LookaheadError(
                f"{folders[0] / CONFIG} names the embedder {embedder!r}; those this program can run are "
                f"{', '.join(_EMBEDDERS)} and sentence-transformers/…"
            )
        keep = "" if local else _how_to_keep(name)
        inversion, corrector = (
            _Part(folder, config, _weights(folder, keep)) for folder, config in zip(folders, configs, strict=True)
        )
        for part in (inversion, corrector):  # vec2text would ask the hub for them by name
            part.config["model_name_or_path"] = str(
                _at_hand(part.config["model_name_or_path"], part.folder, download=download)
            )
        _at_hand(_EMBEDDERS[embedder].hub if embedder in _EMBEDDERS else embedder, folders[0], download=download)
        return cls._built(name, space, inversion, corrector)

    @classmethod
    def _built(cls, name: str, space: Fingerprint, inversion: _Part, corrector: _Part) -> PublishedInverter:
        with _traceless(), _offline():
            from vec2text.models import CorrectorEncoderModel, InversionModel

            first, second = _built(InversionModel, inversion), _built(CorrectorEncoderModel, corrector)
        _refuse_other_kind(name, inversion.config["embedder_model_name"], _kind(first), space)
        if second.embedder_dim != space.dim:
            raise LookaheadError(
                f"{corrector.folder} corrects by vectors of {second.embedder_dim} numbers, {inversion.folder} "
                f"turns back those of {space.dim}; give two folders that were trained together"
            )
        words = [len(model.encoder_decoder.get_input_embeddings().weight) for model in (first, second)]
        if words[0] != words[1]:
            raise LookaheadError(
                f"{inversion.folder} knows {words[0]} tokens, {corrector.folder} {words[1]}; "
                "give two folders that were trained together"
            )
        vectors = _embedded(first, [*_PLAIN], space.max_tokens)
        lengths = np.linalg.norm(vectors, axis=1)
        return cls(
            name,
            space,
            first,
            second,
            probe=vectors[_PLAIN.index(PROBE)],
            length=float(np.median(lengths)),
            lengths=(float(lengths.min()) / _SLACK, float(lengths.max()) * _SLACK),
        )

    @property
    def longest(self) -> int:
        return self._most - 1  # the models count the end of the text too

    def probe(self) -> Floats:
        return self._probe

    def propose(self, targets: Floats, width: int) -> list[list[str]]:
        return self._generated(self._inversion, width, {"frozen_embeddings": self._sized(targets)})

    def correct(self, targets: Floats, texts: Sequence[str], vectors: Floats, width: int) -> list[list[str]]:
        ids, mask = self._hypotheses(texts)
        inputs: dict[str, NDArray[Any]] = {
            "frozen_embeddings": self._sized(targets),
            "hypothesis_embedding": np.asarray(vectors, dtype=np.float32),
            "hypothesis_input_ids": ids,
            "hypothesis_attention_mask": mask,
        }
        return self._generated(self._corrector, width, inputs)

    def _sized(self, targets: Floats) -> Floats:
        """Vectors (n, D) with a length that the vector of a text could have."""
        lengths = np.linalg.norm(targets, axis=1, keepdims=True)
        low, high = self.lengths
        scale = np.where((lengths >= low) & (lengths <= high), 1.0, self.length / lengths)
        return np.asarray(targets * scale, dtype=np.float32)

    def _hypotheses(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens (n, T) and their mask, as generation would have left them: a start that is masked, the text, its end
        unless the text is as long as can be."""
        start = self._inversion.encoder_decoder.config.decoder_start_token_id
        pad = self._inversion.encoder_decoder.config.pad_token_id
        # the last is there because a list of none is refused
        told = self._inversion.tokenizer([*texts, ""], truncation=True, max_length=self._most)["input_ids"][:-1]
        rows = [[start, *ids][: self._most] for ids in told]
        ids = np.full((len(rows), max(map(len, rows), default=1)), pad, dtype=np.int64)
        for row, some in zip(ids, rows, strict=True):
            row[: len(some)] = some
        return ids, (ids != pad).astype(np.int64)

    def _generated(self, model: Any, width: int, inputs: Mapping[str, NDArray[Any]]) -> list[list[str]]:
        """Texts for each row by beam search, a batch at a time; what differs only in its blanks is one text."""
        import torch

        how = {"max_length": self._most, "do_sample": False, "num_beams": width, "num_return_sequences": width}
        rows, told = max(1, _AT_ONCE // width), []
        for first in range(0, len(inputs["frozen_embeddings"]), rows):
            some = {name: torch.from_numpy(values[first : first + rows]) for name, values in inputs.items()}
            with torch.no_grad():  # tensors of inference mode would break vec2text
                told += self._inversion.tokenizer.batch_decode(
                    model.generate(inputs=some, generation_kwargs=how), skip_special_tokens=True
                )
        texts = [" ".join(text.split()) for text in told]
        return [[*dict.fromkeys(texts[first : first + width])] for first in range(0, len(texts), width)]


def _refuse_other_kind(name: str, embedder: str, kind: Kind, space: Fingerprint) -> None:
    if kind != Kind.of(space):
        known = _EMBEDDERS.get(embedder)
        raise LookaheadError(
            f"inverter {name} is for vectors of {embedder} ({kind}), the collection's are from {space}; ingest with "
            f"--encoder {known.encoder if known else embedder} or leave --inverter out"
        )


def _repositories(name: str) -> tuple[str, ...]:
    """Where the hub has a pair's two parts."""
    two = _TWO_NAMES.fullmatch(name)
    if two is None and name not in HUB:
        raise LookaheadError(
            f"there is no published inverter {name!r}: give a folder that holds {PARTS[0]}/ and {PARTS[1]}/, "
            f"{', '.join(HUB)}, or two names of the hub's, owner/inversion,owner/corrector"
        )
    return two.groups() if two else HUB[name]


def _from_hub(repository: str, whose: str, *, download: bool) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        folder = snapshot_download(repository, allow_patterns=_WANTED, local_files_only=not download)
    except Exception as error:  # the hub's client has a dozen of its own, and those of two libraries below it
        reason = "" if not download else ": " + next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        wanted = " ".join(f"'{pattern}'" for pattern in _WANTED)
        raise LookaheadError(
            f"{whose} needs {repository} of huggingface.co, which is not in {constants.HF_HUB_CACHE}{reason}; "
            f"on a machine that can reach it run: hf download {repository} --include {wanted}"
        ) from error
    return Path(folder)


def _at_hand(name: str, folder: Path, *, download: bool) -> Path:
    """The folder of a model that a config names, with weights in it that can be read."""
    found = (
        Path(name)
        if Path(name).is_absolute()
        else _from_hub(name, f"the config in {folder} names a model and", download=download)
    )
    _weights(found)
    return found


def _config(folder: Path, part: str) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LookaheadError(f"there is no vec2text model in {folder}: no {CONFIG} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise LookaheadError(f"{path} is damaged: it is not JSON; fetch it again") from error
    if not isinstance(raw, dict):
        raise LookaheadError(f"{path} is no config: it is no table")
    wanted: dict[str, Any] = _READ[part]
    if missing := sorted(wanted.keys() - raw.keys()):
        raise LookaheadError(f"{path} is not of vec2text's {part} model: it lacks {', '.join(missing)}")
    if wrong := [key for key, types in wanted.items() if not isinstance(raw[key], types)]:
        raise LookaheadError(
            f"{path} is of a model this program cannot run: " + ", ".join(f"{key} is {raw[key]!r}" for key in wrong)
        )
    if raw.get("use_lora"):
        raise LookaheadError(f"{path} is of a model this program cannot run: use_lora is True")
    return raw


def _weights(folder: Path, keep: str = "") -> tuple[Path, ...]:
    """The files with a model's weights. Pickles are refused, with how to `keep` the model as something else."""
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / SHARDS).is_file():
        return _shards(folder / SHARDS)
    if any(folder.glob("pytorch_model*.bin*")):  # or what lists them, where the pickles were not fetched
        raise LookaheadError(
            f"the weights of {folder} are pickles (pytorch_model*.bin), which can run code and are not opened here; "
            f"convert them once: {keep or f'python -c {_CONVERT} {folder}'}"
        )
    raise LookaheadError(f"there are no weights in {folder}: neither {WEIGHTS} nor {SHARDS}; fetch them again")


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise LookaheadError(f"{index} is damaged; fetch it again") from error
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise LookaheadError(f"{index} names {name!r}, which is not beside it; fetch it again")
    return tuple(index.parent / name for name in names)


def _how_to_keep(name: str) -> str:
    """What makes a folder of safetensors of a pair that the hub has as pickles."""
    folder = name.rpartition(",")[2].rpartition("/")[2]
    fetch = [
        f"hf download {one} --local-dir {folder}/{part}" for one, part in zip(_repositories(name), PARTS, strict=True)
    ]
    return " && ".join([*fetch, f"python -c {_CONVERT} {folder}/*"]) + f", then --inverter ./{folder}"


def _built(model_class: Any, part: _Part) -> Any:
    """A model of vec2text's from its config, with its weights in single precision. `from_pretrained` would build it
    without storage, and what its constructor loads cannot be loaded so."""
    from vec2text.models.config import InversionConfig

    try:
        model = model_class(InversionConfig(**part.config)).to("cpu").float()  # GTR's own weights are halves
    except Exception as error:  # whatever transformers and sentence-transformers trip over in a config or a file
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise LookaheadError(
            f"cannot build the {model_class.__name__} that {part.folder / CONFIG} describes: {reason}"
        ) from error
    _fill(model, part)
    return model.eval()


def _fill(model: Any, part: _Part) -> None:
    """Loads every tensor of a part's files into a model of exactly those; a tensor that several names share may be
    there under any of them."""
    tensors = _tensors(part.weights)
    wanted = model.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, value in wanted.items():
        names.setdefault(id(value), []).append(name)
    whole: dict[str, Any] = {}
    for shared in names.values():
        there = next((name for name in shared if name in tensors), None)
        whole |= {name: tensors.get(name, tensors[there]) for name in shared if there is not None}
    wrong = [(name, "is not there") for name in wanted if name not in whole]
    wrong += [(name, "belongs to nothing") for name in tensors if name not in wanted]
    wrong += [
        (name, f"is {tuple(value.shape)}, expected {tuple(wanted[name].shape)}")
        for name, value in whole.items()
        if value.shape != wanted[name].shape
    ]
    if wrong:
        (name, what), *others = sorted(wrong)
        raise LookaheadError(
            f"the weights in {part.folder} are not of the {type(model).__name__} its {CONFIG} describes: {name} {what}"
            + (f" ({len(others)} more are wrong)" if others else "")
        )
    model.load_state_dict(whole, strict=True)


def _tensors(files: Sequence[Path]) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for path in files:
        try:
            tensors |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise LookaheadError(f"cannot read {path}: {error}; fetch it again") from error
    # what sentence-transformers called its model until version 6
    return {re.sub(r"^(embedder\.\d+)\.auto_model\.", r"\1.model.", name): value for name, value in tensors.items()}


def _kind(model: Any) -> Kind:
    """Of the vectors of an InversionModel's own embedder."""
    from torch.nn import Sequential

    if not isinstance(model.embedder, Sequential):  # a bare encoder: vec2text pools it
        return Kind(model.embedder_dim, "mean", dense=False, normalised=False)
    layers = {type(module).__name__: module for module in model.embedder}
    mode = getattr(layers.get("Pooling"), "pooling_mode", None) or "none"
    pooling = mode if isinstance(mode, str) else "+".join(mode)
    return Kind(model.embedder_dim, pooling, dense="Dense" in layers, normalised="Normalize" in layers)


def _embedded(model: Any, texts: Sequence[str], most: int) -> Floats:
    """Vectors (n, D) of texts as an InversionModel's own embedder places them."""
    import torch

    tokens = model.embedder_tokenizer(list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt")
    with torch.no_grad():
        vectors = model.call_embedding_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    return np.asarray(vectors.float().numpy(), dtype=np.float32)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """All that was wanted is here: what vec2text loads by name comes from the cache, or not at all."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _traceless() -> Iterator[None]:
    """Undoes what importing vec2text and building its models changes for the whole process.

    vec2text 0.0.13 sets transformers' loggers to errors only and torch's compiler to tell all, with new handlers for
    every logger of torch's; it turns off the caching of datasets, and sets three environment variables. Its
    dependencies add filters of warnings. Building prints, and shows bars.
    """
    import datasets
    import torch._logging
    from transformers.utils import logging as transformers_logging

    known = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    loggers = [(one, one.level, one.handlers[:], one.propagate, one.disabled) for one in (logging.root, *known)]
    environment, caching = dict(os.environ), datasets.is_caching_enabled()
    bars = transformers_logging.is_progress_bar_enabled()
    # torch keeps a state of its own beside the loggers: what is set cannot be taken back, so it is never set
    torch_logging: Any = torch._logging
    set_logs, torch_logging.set_logs = torch_logging.set_logs, lambda **_: None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            for name in ("transformers", "sentence_transformers", "huggingface_hub"):
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
    finally:
        torch_logging.set_logs = set_logs
        for one, level, handlers, propagate, disabled in loggers:
            one.setLevel(level)
            one.handlers[:], one.propagate, one.disabled = handlers, propagate, disabled
        for key in os.environ.keys() - environment.keys():
            del os.environ[key]
        os.environ.update(environment)
        (datasets.enable_caching if caching else datasets.disable_caching)()
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
