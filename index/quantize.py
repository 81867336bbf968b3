"""Makes the twin of a model in eight bits: weights and the token table, and activations where calibration allows.

It works on the graph of the fast path with NNCF, in a process of its own. It does not know what a good score is: it
measures sizes, rates and cosines, and lets the caller judge both encoders.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import random
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from index.conversion import apart, convert_apart
from index.encoder import (
    BUNDLED,
    FULL,
    HASHING,
    INT8,
    STATIC,
    Encoder,
    Fingerprint,
    folder_of,
    lasting,
    read_recipe,
    write_recipe,
)
from index.fast import KEEPS, MODEL, TOKENIZER, FastEncoder, cosines_of, feed, paces, read_tokenizer
from index.graphs import ov
from index.progress import bar, say
from index.twin import FILES, STS_DROP, Measured, only_twin, write_twin
from store.records import LookaheadError
from store.staging import making

AUTO, CALIBRATED, DYNAMIC = "auto", "static", "dynamic"
MODES = (AUTO, CALIBRATED, DYNAMIC)
TEXTS = 300
LEAST = 20  # texts
# how far SmoothQuant moves outliers of activations into weights (Xiao et al. 2023); on MiniLM-L6, of .5, .75 and NNCF's
# .95, this kept the smallest cosines: .996 of chunks (.985, .994) and .972 of short sentences (.959, .950)
SMOOTH = 0.75
GROUP = 128  # values that share a scale in the dynamic way; OpenVINO's own 32 is slower than bfloat16 here
_HELD_OUT = 128


def quantize(
    spec: str,
    folder: Path,
    texts: Sequence[str],
    *,
    mode: str = AUTO,
    judge: Callable[[Encoder], float] | None = None,
    seconds: float = 4.0,
    quiet: bool = False,
) -> Measured:
    """Writes the twin of the model `spec` names to `folder`, calibrated on four fifths of `texts` and measured on the
    others; `judge` gives an encoder's score on a task. The way "auto" is "static", or "dynamic" where that fails or
    loses too much.
    """
    if spec == HASHING:
        raise LookaheadError("the hashing encoder has no weights to keep in eight bits; name a model")
    if len(texts) < LEAST:
        raise LookaheadError(f"{len(texts)} texts are too few to calibrate on; give {LEAST} or more, some 300 are good")
    if only_twin(spec) is not None:
        raise LookaheadError(f"{spec} is in eight bits already, and there is nothing else of it; just use it")
    started = time.perf_counter()
    try:
        with making(folder.parent, folder.name, restart=True) as place:
            return _made(spec, place, texts, mode, judge, seconds, started, quiet=quiet)
    finally:
        _leave_no_empty_folder(folder)


def _made(
    spec: str,
    place: Path,
    texts: Sequence[str],
    mode: str,
    judge: Callable[[Encoder], float] | None,
    seconds: float,
    started: float,
    *,
    quiet: bool,
) -> Measured:
    """Writes the whole twin into `place`; nothing is left there where that fails."""
    work = place / "work"
    whole = work / "whole"
    whole.mkdir(parents=True)
    try:
        say("converting the model and trying it: some 15 seconds", quiet=quiet)
        convert_apart(spec, whole, device="cpu", precision=FULL, note=lambda sentence: say(sentence, quiet=quiet))
        recipe = _convertible(spec, whole)
        calibrating, held_out = _parted(texts)
        full = str(recipe["precision"])
        score = None if judge is None else judge(FastEncoder.compile(whole, full, bulk=True))
        ways = (CALIBRATED, DYNAMIC) if mode == AUTO else (mode,)
        for way in ways:
            made = work / way
            made.mkdir()
            last = way == ways[-1]
            try:
                graph = functools.partial(write_graph, whole, made, calibrating, way, quiet=quiet)
                apart(f"quantising {spec!r}", graph, lambda sentence: say(sentence, quiet=quiet))
            except LookaheadError as error:
                if last:
                    raise
                say(f"{error}; trying the dynamic way", quiet=quiet)
                continue
            ours = {**recipe, **_int8_fields(spec, recipe, way)}
            measured = _measured(whole, made, ours, full, held_out, seconds)
            after = None if judge is None else judge(FastEncoder.compile(made, INT8, bulk=True))
            measured = replace(
                measured,
                mode=way,
                texts=len(calibrating) if way == CALIBRATED else 0,
                sts_before=score,
                sts_after=after,
            )
            if last or keeps(measured):
                break
            fell = "" if measured.sts_drop is None else f" and loses {measured.sts_drop:.3f} on STS"
            say(f"it keeps a mean cosine of {measured.cosine_mean:.4f}{fell}; trying the dynamic way", quiet=quiet)
        for name in FILES:
            (made / name).replace(place / name)
        measured = replace(measured, seconds=round(time.perf_counter() - started, 1))
        write_twin(place, ours, measured)
        return measured
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _leave_no_empty_folder(folder: Path) -> None:
    """Of a model that could not be loaded, and has no other files here than the lock of this making."""
    lock = folder.with_name(f".{folder.name}.lock")
    if list(folder.parent.iterdir()) == [lock]:
        lock.unlink()
        with contextlib.suppress(OSError):
            folder.parent.rmdir()


def keeps(measured: Measured) -> bool:
    """Whether eight bits are as good as the model itself, as far as anybody looked."""
    drop = measured.sts_drop
    return measured.cosine_mean >= KEEPS and (drop is None or drop <= STS_DROP)


def of_many_lengths(texts: Sequence[str], seed: int = 0) -> list[str]:
    """Every other text as it is, and of those between only the beginning: questions and headings are short."""
    chance = random.Random(seed)
    cut = []
    for number, text in enumerate(texts):
        words = text.split()
        cut.append(text if number % 2 == 0 or len(words) < 3 else " ".join(words[: chance.randint(2, len(words))]))
    return cut


def write_graph(
    whole: Path, made: Path, texts: Sequence[str], way: str, *, quiet: bool, note: Callable[[str], object]
) -> None:
    """Writes model.xml, model.bin and tokenizer.json of the encoder folder `whole` in eight bits to `made`."""
    recipe = read_recipe(whole)
    try:
        with _hushed(), bar("calibrating", None, "texts", quiet=quiet or way == DYNAMIC) as shown:
            import nncf

            nncf.set_log_level(logging.ERROR)
            graph = ov.Core().read_model(str(whole / MODEL))
            if way == CALIBRATED:
                fingerprint = Fingerprint.from_json(recipe["fingerprint"])
                tokenizer = read_tokenizer(whole, fingerprint.max_tokens)

                def fed(text: str) -> dict[str, Any]:
                    shown.update(1)
                    return feed([tokenizer.encode(fingerprint.document_prefix + text).ids], recipe["inputs"])

                smooth = nncf.AdvancedSmoothQuantParameters(matmul=SMOOTH)
                eight = nncf.quantize(
                    graph,
                    nncf.Dataset(list(texts), fed),
                    model_type=nncf.ModelType.TRANSFORMER,
                    preset=nncf.QuantizationPreset.MIXED,
                    subset_size=len(texts),
                    advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smooth),
                )
            else:
                eight = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM)
            ov.save_model(eight, str(made / MODEL), compress_to_fp16=True)
    except ImportError as error:
        raise LookaheadError(f"nncf, which quantises, cannot be loaded ({error}); run: pip install nncf") from error
    except Exception as error:  # nncf and openvino raise half a dozen kinds, bare ones among them
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise LookaheadError(f"the {way} way of eight bits failed: {reason}") from error
    shutil.copyfile(whole / TOKENIZER, made / TOKENIZER)


def _convertible(spec: str, whole: Path) -> dict[str, Any]:
    recipe = read_recipe(whole)
    if recipe["kind"] == STATIC:
        raise LookaheadError(f"{spec} is a static model, whose table is kept in eight bits as it is; just use it")
    if recipe["kind"] != "openvino":
        raise LookaheadError(f"{spec} cannot be converted for OpenVINO, where eight bits would run; it stays on torch")
    return recipe


def _parted(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Most to calibrate on, and every fifth, 128 at most, to measure on."""
    held_out = [text for number, text in enumerate(texts) if number % 5 == 4][:_HELD_OUT]
    out = set(held_out)
    return [text for text in texts if text not in out], held_out


def _int8_fields(spec: str, recipe: dict[str, Any], way: str) -> dict[str, Any]:
    """How a twin's recipe differs from its model's; a folder's path on this machine is nobody else's business."""
    own = folder_of(spec) if spec != BUNDLED else None
    fields = {
        "precision": INT8,
        "spec": own.name if own is not None else lasting(spec),
        "fingerprint": {**recipe["fingerprint"], "precision": INT8},
    }
    return fields if way == CALIBRATED else {**fields, "group": GROUP}


def _measured(
    whole: Path, made: Path, recipe: dict[str, Any], full: str, texts: Sequence[str], seconds: float
) -> Measured:
    write_recipe(made, recipe)
    encoders: dict[str, Encoder] = {
        name: FastEncoder.compile(whole, name, bulk=True) for name in dict.fromkeys(("f32", full))
    }
    encoders[INT8] = FastEncoder.compile(made, INT8, bulk=True)
    vectors = {name: encoder.encode(texts) for name, encoder in encoders.items()}
    cosines = cosines_of(vectors[INT8], vectors["f32"])
    files = (made / MODEL, (made / MODEL).with_suffix(".bin"))
    return Measured(
        mode="",
        texts=0,
        held_out=len(texts),
        cosine_mean=round(float(cosines.mean()), 6),
        cosine_least=round(float(cosines.min()), 6),
        bytes_before=_single_precision(whole),
        bytes_after=sum(path.stat().st_size for path in files),
        rates={name: round(rate, 1) for name, rate in paces(encoders, texts, seconds).items()},
        full=full,
        sts_before=None,
        sts_after=None,
        seconds=0.0,
    )


def _single_precision(whole: Path) -> int:
    """Bytes of a graph's weights at four each; on disk they are kept in half precision."""
    graph = ov.Core().read_model(str(whole / MODEL))
    weights = [node for node in graph.get_ops() if node.get_type_name() == "Constant"]
    real = [node for node in weights if node.get_element_type().is_real()]
    return int(sum(4 * np.prod(node.get_output_shape(0), dtype=np.int64) for node in real))


@contextlib.contextmanager
def _hushed() -> Any:
    """NNCF draws bars and tables of its own on stdout."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
