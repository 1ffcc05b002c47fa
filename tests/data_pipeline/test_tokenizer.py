"""Laws 2 and 3: pieces join to what the tokenizer gives, and data never becomes a control token."""

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data_pipeline.errors import DataError
from data_pipeline.tokenizer import TextEncoder, train_tokenizer
from data_pipeline.verbalize import DAY, GAPS_CUE, clean, since_text

CORPUS = [
    "Questions about films.\nProfile: age low (24) | gender M\nHistory:\n",
    "2 days | Toy Story (1995) | Animation, Comedy | rated 4\n",
    "Answer: Yes\nAnswer: No\nAnswer: A\nAnswer: 1\nAnswer: 5\n",
    " Ça ira! | Drama\n Шоу Трумана (1998)\n 千と千尋の神隠し\n",
] * 30
LABELS = ("Yes", "No", "A", "B", "1", "2", "3", "4", "5")

# The pre-tokenizers of the models that Brewhouse names, written as their tokenizer.json has them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
PRE_TOKENIZERS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm2": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama3": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
    "qwen": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def byte_level(name: str, normalizer: object = None) -> TextEncoder:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[name]
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*CORPUS, *(f" {word}" for word in LABELS * 40)], trainer)
    return TextEncoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>"))


def sentencepiece_like() -> TextEncoder:
    """As Mixtral's: no pre-tokenizer, a space before any text, bytes for what is unknown."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    texts = [line for text in CORPUS for line in text.split("\n")]
    tokenizer.train_from_iterator([*texts, *(f" {word}" for word in LABELS * 40)], trainer)
    specification = json.loads(tokenizer.to_str())
    vocab = specification["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    specification["model"] |= {"byte_fallback": True, "fuse_unk": True}
    specification["pre_tokenizer"] = None
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(specification))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return TextEncoder(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    )


ENCODERS = {name: byte_level(name) for name in PRE_TOKENIZERS}
ENCODERS["qwen_nfc"] = byte_level("qwen", normalizers.NFC())
ENCODERS["mixtral"] = sentencepiece_like()
ENCODERS["own"] = train_tokenizer([*CORPUS, *(f" {word}" for word in LABELS * 40)], vocab_size=700)


def tokenizer_alone(encoder: TextEncoder, text: str) -> list[int]:
    """What the tokenizer itself gives for a whole text that is not to hold control tokens."""
    ids: list[int] = encoder.tokenizer(text, add_special_tokens=True, split_special_tokens=True)[
        "input_ids"
    ]
    return ids


titles = st.text(min_size=0, max_size=40).map(lambda t: clean(t, words=24, characters=240))


@pytest.mark.parametrize("name", ENCODERS)
@settings(max_examples=60, deadline=None)
@given(first=titles, second=titles, genre=titles)
def test_joined_pieces_equal_the_tokenizer(name: str, first: str, second: str, genre: str) -> None:
    encoder = ENCODERS[name]
    start = "Questions about films.\n"
    pieces = [
        "Profile:", f" {genre}\n", "History:\n", "2 days |", f" {first} | {genre}", " | rated 4\n",
        "|", f" {second}", " | rated 4\n", "|", f" {first} | {genre}", " | rated 5\n",
        GAPS_CUE, "now |", f" {second} | {genre}", " | rated 4\n", since_text(3 * DAY),
        "Which one?\n", "A:", f" {second}\n", "B:", f" {first}\n", "Query:", f" {genre}\n",
        "Taste:", f" {genre} | {second}\n", "Text:", f" likes {first}", f" | likes {genre}",
        " | rates high\n", "Answer:", " Yes",
    ]  # fmt: skip
    joined = np.concatenate([encoder.start(start), *encoder.pieces(pieces)])
    assert joined.tolist() == tokenizer_alone(encoder, start + "".join(pieces))


def test_pieces_cut_inside_a_word_do_not_join() -> None:
    """The rule of where pieces meet is needed: elsewhere the equality breaks."""
    encoder = ENCODERS["own"]
    joined = np.concatenate([encoder.start("His"), *encoder.pieces(["tory:\n"])])
    assert joined.tolist() != tokenizer_alone(encoder, "History:\n")


@pytest.mark.parametrize("name", ENCODERS)
def test_text_from_data_never_becomes_a_control_token(name: str) -> None:
    encoder = ENCODERS[name]
    hostile = " ".join(encoder.tokenizer.all_special_tokens) + "<|im_end|><|im_start|>"
    ids = encoder.piece(f" The {hostile} of it\n")
    assert encoder.control_ids
    assert encoder.control_ids.isdisjoint(ids.tolist())
    assert encoder.decode(ids) == f" The {hostile} of it\n"


@pytest.mark.parametrize("name", ENCODERS)
def test_labels_are_single_distinct_tokens_in_context(name: str) -> None:
    encoder = ENCODERS[name]
    for words in (("No", "Yes"), ("A", "B"), ("1", "2", "3", "4", "5")):
        cue, labels = encoder.labels("Answer:", words)
        assert len(set(labels.tolist())) == len(words)
        for word, label in zip(words, labels, strict=True):
            whole = tokenizer_alone(encoder, f"x\nAnswer: {word}")
            assert whole[-len(cue) - 1 :] == [*cue.tolist(), label]


def test_label_of_several_tokens_is_an_error() -> None:
    with pytest.raises(DataError, match=r"not single, distinct tokens.*Xylophone-Quartz"):
        ENCODERS["own"].labels("Answer:", ("Yes", "Xylophone-Quartz"))


def test_labels_that_share_a_token_are_an_error() -> None:
    with pytest.raises(DataError, match="not single, distinct tokens"):
        ENCODERS["own"].labels("Answer:", ("Yes", "Yes"))


def test_training_is_deterministic_and_covers_any_text() -> None:
    again = train_tokenizer([*CORPUS, *(f" {word}" for word in LABELS * 40)], vocab_size=700)
    assert again.fingerprint == ENCODERS["own"].fingerprint
    text = "🎬 ünïcode \u200b 千\n"
    assert again.decode(again.piece(text)) == text


def test_a_tiny_vocabulary_is_refused() -> None:
    with pytest.raises(DataError, match="too small"):
        train_tokenizer(CORPUS, vocab_size=100)


def test_a_missing_tokenizer_is_a_clear_error(tmp_path: object) -> None:
    with pytest.raises(DataError, match=r"no tokenizer could be loaded.*(?s:.)*train:VOCAB_SIZE"):
        TextEncoder.load(f"{tmp_path}/nothing")
