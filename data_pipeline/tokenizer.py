"""Text to ids, so that pieces can be joined and no text from data becomes a control token."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data_pipeline.errors import DataError

Ids = NDArray[np.int32]

# Written before a piece while it is encoded and taken off again, so that it is encoded as what it
# is: text in the middle of a prompt. SentencePiece models would otherwise add a leading space.
_INSIDE_LINE = "|"
_AFTER_LINE = "\n"


class TextEncoder:
    """A Hugging Face fast tokenizer that encodes pieces of prompts.

    Text goes through a copy of the tokenizer without its added tokens, so a title that contains
    `<|im_end|>` is plain text whatever the tokenizer's own settings are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise DataError(
                f"the tokenizer {type(tokenizer).__name__} has no fast version",
                remedy="use a model whose folder holds a tokenizer.json",
            )
        self.tokenizer = tokenizer
        specification = json.loads(tokenizer.backend_tokenizer.to_str())
        self.control_ids = frozenset(token["id"] for token in specification["added_tokens"])
        specification |= {
            "added_tokens": [],
            "post_processor": None,
            "truncation": None,
            "padding": None,
        }
        self._plain = tokenizers.Tokenizer.from_str(json.dumps(specification))
        self.fingerprint = hashlib.sha256(
            tokenizer.backend_tokenizer.to_str().encode()
        ).hexdigest()[:16]
        # What the tokenizer itself puts before any text: its bos token, or nothing.
        empty = tokenizer("", add_special_tokens=True)["input_ids"]
        bos = tokenizer.bos_token_id
        self.start_ids = (
            np.array([bos], dtype=np.int32)
            if bos is not None and list(empty[:1]) == [bos]
            else np.empty(0, np.int32)
        )

    @classmethod
    def load(cls, name_or_path: str | Path) -> "TextEncoder":
        """Load the tokenizer of a folder or hub id. Raises DataError where there is none."""
        try:
            return cls(AutoTokenizer.from_pretrained(str(name_or_path), trust_remote_code=False))
        except (OSError, ValueError) as error:
            raise DataError(
                f"no tokenizer could be loaded: {error}",
                value=str(name_or_path),
                remedy="name a folder that holds tokenizer.json, a hub id, or `train:VOCAB_SIZE`",
            ) from error

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding matrix needs for every id of the tokenizer."""
        return len(self.tokenizer)

    @cached_property
    def line_ends(self) -> frozenset[int]:
        """Every token that ends a line: a newline alone, or with what some tokenizers join to it.

        Control tokens are not among them.
        """
        ids = [token for token in range(self.vocab_size) if token not in self.control_ids]
        texts = self.tokenizer.batch_decode([[token] for token in ids])
        return frozenset(token for token, text in zip(ids, texts, strict=True) if "\n" in text)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into the folder."""
        self.tokenizer.save_pretrained(str(folder))

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Return the text of ids, control tokens included, nothing cleaned up."""
        return str(
            self.tokenizer.decode(
                [int(i) for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def start(self, text: str) -> Ids:
        """Encode the piece that begins a prompt, with the tokenizer's own start token."""
        ids = self._plain.encode(text, add_special_tokens=False).ids
        return np.concatenate([self.start_ids, self._checked(text, ids)])

    def piece(self, text: str) -> Ids:
        """Encode one piece that follows another one."""
        return self.pieces([text])[0]

    def pieces(self, texts: Sequence[str]) -> list[Ids]:
        """Encode pieces, each as it reads behind another piece."""
        anchors = [_INSIDE_LINE if text.startswith(" ") else _AFTER_LINE for text in texts]
        anchor_ids = {
            anchor: self._plain.encode(anchor, add_special_tokens=False).ids
            for anchor in (_INSIDE_LINE, _AFTER_LINE)
        }
        encoded = self._plain.encode_batch_fast(
            [anchor + text for anchor, text in zip(anchors, texts, strict=True)],
            add_special_tokens=False,
        )
        out = []
        for text, anchor, encoding in zip(texts, anchors, encoded, strict=True):
            prefix = anchor_ids[anchor]
            ids = encoding.ids
            if ids[: len(prefix)] != prefix:
                raise DataError(
                    "this tokenizer joins text across a place where prompts are cut",
                    value=text[:80],
                    remedy="use a tokenizer whose pre-tokenizer splits at newlines and before "
                    "spaces (all byte-level BPE models of the Llama, Qwen, SmolLM, Mistral lines)",
                )
            out.append(self._checked(text, ids[len(prefix) :]))
        return out

    def labels(self, cue: str, words: Sequence[str]) -> tuple[Ids, Ids]:
        """Encode answers behind their cue so that each differs in exactly one token.

        Returns:
            The ids of the cue with what all answers share, and one label id per word.

        Raises:
            DataError: two words share their token, or a word takes several tokens.
        """
        encoded = self.pieces([f"{cue} {word}" for word in words])
        shared = 0
        while all(len(ids) > shared + 1 and ids[shared] == encoded[0][shared] for ids in encoded):
            shared += 1
        label_ids = np.array([ids[shared] for ids in encoded], dtype=np.int32)
        long = [w for w, ids in zip(words, encoded, strict=True) if len(ids) != shared + 1]
        if long or len(set(label_ids.tolist())) != len(words):
            raise DataError(
                f"the label words {list(words)} are not single, distinct tokens behind {cue!r}"
                + (f": {long} take several" if long else ""),
                remedy="use other label words, or a tokenizer that holds them",
            )
        return encoded[0][:shared], label_ids

    def _checked(self, text: str, ids: Sequence[int]) -> Ids:
        if not self.control_ids.isdisjoint(ids):
            raise DataError(
                "text from data would become a control token of this tokenizer",
                value=text[:80],
                remedy="remove the token's exact text from the field, or use another tokenizer",
            )
        return np.asarray(ids, dtype=np.int32)


END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
_FIELD = r"(?<=[:|]) [^\n|:]+?(?= ?\||\n|:|$)"
_SPLITS = _FIELD + r"| ?\|| ?[^\s|:]+:?|:|\s"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> TextEncoder:
    """Train a byte-level BPE tokenizer on a corpus.

    Byte-level: any unicode text can be written, nothing is unknown. A field of a record (what
    stands behind `:` or `|`) is not split at its spaces, so a frequent title or list of genres can
    become one token, as in SuperBPE (arXiv 2503.13423): with a small model, a history then costs a
    few tokens per event. Other text, such as instructions, is split into words, so that unseen
    phrasings are made of seen words. The result is the same for the same texts in the same order.
    """
    if vocab_size < 512:
        raise DataError(
            f"a vocabulary of {vocab_size} tokens is too small",
            value=vocab_size,
            remedy="ask for at least train:512",
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(_SPLITS), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return TextEncoder(
        PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer,
            eos_token=END_OF_TEXT,
            pad_token=PAD,
            clean_up_tokenization_spaces=False,
        )
    )
