"""A published inverter of a few million random weights: vec2text's own classes, and the hub's cache they look into.

Everything is made here; the names are the real ones, since vec2text looks for those.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.decode import _offline, _traceless

BASE, GTR = "t5-base", "sentence-transformers/gtr-t5-base"
DIM = 768  # vec2text's corrector knows no other
LONGEST = 12
WORDS = """
the a of and to in was is it on at by river bridge mill town council war sea hill road church old new first last great
small north south east west built opened closed burned found lost sold two three nine hundred years later people king
queen album song team match won played forest bird stone water light iron gold
"""


def config_of(**changes: Any) -> dict[str, Any]:
    """What vec2text 0.0.13 reads of its configs, and some of what it writes beside it."""
    return {
        "_frozen": True,
        "_n_gpu": 1,
        "bf16": True,
        "corrector_ignore_hypothesis_embedding": False,
        "decoder_dropout_disabled": False,
        "embedder_fake_with_zeros": False,
        "embedder_gaussian_noise_level": 0.0,
        "embedder_model_api": None,
        "embedder_model_name": "gtr_base",
        "embedder_no_grad": True,
        "embedder_torch_dtype": "float32",
        "embedding_transform_strategy": "repeat",
        "embeddings_from_layer_n": None,
        "encoder_dropout_disabled": False,
        "hub_token": "<HUB_TOKEN>",
        "learning_rate": 0.001,
        "max_seq_length": LONGEST,
        "model_name_or_path": BASE,
        "num_repeat_tokens": 2,
        "output_dir": "saves/gtr",
        "torch_dtype": "float32",
        "transformers_version": "4.34.1",
        "use_frozen_embeddings_as_input": True,
        "use_lora": False,
        **changes,
    }


def write_cache(cache: Path) -> None:
    """The hub's cache as it is after someone asked for T5 and for GTR."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import T5EncoderModel, T5ForConditionalGeneration

    with _traceless():
        torch.manual_seed(1)
        base, body = snapshot(cache, BASE), cache / "body"
        T5ForConditionalGeneration(_shape(d_model=32, d_kv=8, num_heads=4)).save_pretrained(base)
        T5EncoderModel(_shape(d_model=DIM, d_kv=4, num_heads=2)).save_pretrained(body)
        for folder in (base, body):
            _tokenizer().save_pretrained(folder)
        layers = [
            modules.Transformer(str(body)),
            modules.Pooling(DIM, pooling_mode="mean"),
            modules.Dense(DIM, DIM, bias=False, activation_function=torch.nn.Identity()),
            modules.Normalize(),
        ]
        SentenceTransformer(modules=layers, device="cpu").half().save(str(snapshot(cache, GTR)))  # as the real one is


def write_pair(folder: Path, **changes: Any) -> Path:
    """inversion/ and corrector/ of vec2text's own models; what they are built from must be in the cache."""
    import torch
    from safetensors.torch import save_file

    with _traceless(), _offline():
        from vec2text.models import CorrectorEncoderModel, InversionModel
        from vec2text.models.config import InversionConfig

        torch.manual_seed(2)
        for name, of in (("inversion", InversionModel), ("corrector", CorrectorEncoderModel)):
            config = config_of(**changes, architectures=[of.__name__])
            model = of(InversionConfig(**config)).float()
            tensors = {key: value.clone() for key, value in model.state_dict().items()}
            for key in tensors:  # so that what is said depends on the vector
                if key.startswith("embedding_transform") and key.endswith("3.weight"):
                    tensors[key] *= 20
            (folder / name).mkdir(parents=True)
            (folder / name / "config.json").write_text(json.dumps(config))
            save_file(tensors, folder / name / "model.safetensors")
    return folder


def snapshot(cache: Path, name: str) -> Path:
    """The folder that the hub's client takes for a repository's newest state."""
    repository = cache / ("models--" + name.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    return folder


def _shape(**changes: Any) -> Any:
    from transformers import T5Config

    return T5Config(
        vocab_size=len(_known()),
        d_ff=64,
        num_layers=1,
        num_decoder_layers=1,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        initializer_factor=4.0,  # so that texts lie far apart
        **changes,
    )


def _known() -> list[tuple[str, float]]:
    """Whole words only, so that a text has the tokens it was made of."""
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -2.0) for word in WORDS.split())]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from tokenizers.decoders import Metaspace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.Unigram(_known(), unk_id=2))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = Metaspace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    named = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=512, **named)
