"""A WordPiece tokenizer as BERT's, of a few words that can be counted in the head: every other word falls into letters.

The letters are Latin, Cyrillic and digits; "木" and "橋" are there too, "♞" is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789абвгдежзиклмнопрстуя"
MARKS = ".,;:!?()[]%'’-–/\"$&木橋"
WORDS = ("the", "old", "stone", "bridge", "over", "river", "mill", "of", "in", "##s", "##ing", "##er")


def wordpiece(words: Sequence[str] = WORDS) -> Tokenizer:
    """Ids in the order of SPECIAL, the marks, the letters, the letters within words, and the words."""
    known = [*SPECIAL, *MARKS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    known += [word for word in words if word not in known]
    vocabulary = {piece: number for number, piece in enumerate(known)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text's tokens, without those that BERT puts around them."""
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)
