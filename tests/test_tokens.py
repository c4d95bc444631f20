"""The count of tokens is the engine's: held to the tokenizers that the models read with."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE

from spooler import tokens
from spooler.prompt import PromptError

CLIP = tokens.VOCABULARIES["clip"].parent
#: Letters of many scripts and cases, digits of several kinds, spaces that are none to others, and the encoder's own marks.
ODD = st.text(st.sampled_from("abcLTS ,.'1289éßÅΣİ日本𝔘½²①١ʼ\u00a0\u3000\n\u0301<|>endoftxsra"), max_size=40)  # noqa: RUF001


def reader(vocabulary: str) -> Tokenizer:
    """The library's own tokenizer: the demo model's, and the same with CLIP's words and merges."""
    made = Tokenizer.from_file(str(tokens.VOCABULARIES["demo"]))
    if vocabulary == "clip":
        whole = json.loads(tokens.VOCABULARIES["demo"].read_bytes())
        words = json.loads((CLIP / "vocab.json").read_bytes())
        merges = [tuple(line.split(" ")) for line in (CLIP / "merges.txt").read_text().split("\n")[1:] if line]
        for mark in whole["added_tokens"]:
            mark["id"] = words[mark["content"]]
        whole["post_processor"] = None
        made = Tokenizer.from_str(json.dumps(whole | {"model": whole["model"] | {"vocab": words, "merges": merges}}))
        assert isinstance(made.model, BPE) and made.get_vocab_size() == 49408
    made.no_padding()
    made.no_truncation()
    return made


READERS = {name: reader(name) for name in tokens.VOCABULARIES}


@pytest.mark.parametrize("vocabulary", READERS)
@given(text=ODD | st.text(max_size=60))
def test_any_text_has_as_many_tokens_as_the_engine_reads(vocabulary: str, text: str) -> None:
    theirs = READERS[vocabulary].encode(text, add_special_tokens=False).ids
    assert tokens.count_plain(text, vocabulary) == len(theirs)


def test_weights_chunks_and_loras_are_understood() -> None:
    assert tokens.count("a red (circle:1.3) [on] blue <lora:ink:0.5>", "clip") == tokens.Count(5, 75)
    assert tokens.count("", "clip") == tokens.Count(0, 75)
    assert tokens.count("red BREAK blue", "clip") == tokens.Count(2, 150)
    assert tokens.count("red " * 76, "clip") == tokens.Count(76, 150)
    with pytest.raises(PromptError):
        tokens.count("(" * 40, "clip")


def test_the_longest_word_takes_no_long_time() -> None:
    assert tokens.count("qwertzuiopasdfghjklyxcvbnm" * 384, "clip").tokens > 2000
