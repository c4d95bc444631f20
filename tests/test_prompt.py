"""The prompt language: weights, chunks and LoRAs, as users of A1111 write them."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from spooler.prompt import Fragment, PromptError, extract_loras, is_plain, parse, spelled

UP, DOWN = 1.1, 0.909091


def only_chunk(prompt: str) -> list[tuple[str, float]]:
    (chunk,) = parse(prompt)
    return [(fragment.text, fragment.weight) for fragment in chunk]


@pytest.mark.parametrize(
    ("prompt", "fragments"),
    [
        ("a cat", [("a cat", 1)]),
        ("", [("", 1)]),
        ("()", [("", 1)]),
        ("a (red) cat", [("a ", 1), ("red", UP), (" cat", 1)]),
        ("((red))", [("red", 1.21)]),
        ("(((red)))", [("red", 1.331)]),
        ("[red]", [("red", DOWN)]),
        ("[[red]]", [("red", 0.826446)]),
        ("([red])", [("red", 1)]),
        ("a (red:1.3) cat", [("a ", 1), ("red", 1.3), (" cat", 1)]),
        ("(red : 1.3 )", [("red ", 1.3)]),
        ("(red:+.5)", [("red", 0.5)]),
        ("(red:-1)", [("red", -1)]),
        ("(red:0)", [("red", 0)]),
        ("((red:2))", [("red", 2.2)]),
        ("(a (red:2) cat:1.5)", [("a ", 1.5), ("red", 3), (" cat", 1.5)]),
        ("(a [red] cat:2)", [("a ", 2), ("red", 1.818182), (" cat", 2)]),
        ("(a:1.2)(b:1.2) (c:1.2)", [("ab", 1.2), (" ", 1), ("c", 1.2)]),
        ("(red:1)", [("red", 1)]),
        # Literal brackets.
        (r"a \(red\) cat", [("a (red) cat", 1)]),
        (r"a \[red\] cat", [("a [red] cat", 1)]),
        (r"(\(red\):1.3)", [("(red)", 1.3)]),
        (r"\\(red)", [("\\", 1), ("red", UP)]),
        (r"a \cat", [("a cat", 1)]),
        # Colons that are no weight.
        ("a: red, b:2", [("a: red, b:2", 1)]),
        ("(red:nan)", [("red:nan", UP)]),
        ("(red:1e3)", [("red:1e3", UP)]),
        ("[red:1.3]", [("red:1.3", DOWN)]),
        ("12:30 (noon)", [("12:30 ", 1), ("noon", UP)]),
        # Brackets without a partner.
        ("a (red cat", [("a ", 1), ("red cat", UP)]),
        ("a [red cat", [("a ", 1), ("red cat", DOWN)]),
        ("((a) b", [("a", 1.21), (" b", UP)]),
        ("a) b", [("a) b", 1)]),
        ("a] b", [("a] b", 1)]),
        ("red:1.3)", [("red:1.3)", 1)]),
        ("[red)", [("red)", DOWN)]),
        (":-)", [(":-)", 1)]),
    ],
)
def test_weights(prompt: str, fragments: list[tuple[str, float]]) -> None:
    assert only_chunk(prompt) == fragments


@pytest.mark.parametrize(
    ("prompt", "chunks"),
    [
        ("a BREAK b", [[("a", 1)], [("b", 1)]]),
        ("a\nBREAK\nb BREAK c ", [[("a", 1)], [("b", 1)], [("c ", 1)]]),
        ("(a:2) BREAK [b]", [[("a", 2)], [("b", DOWN)]]),
        ("(a BREAK b:2) c", [[("a", 2)], [("b", 2), (" c", 1)]]),
        ("a BREAK", [[("a", 1)]]),
        ("BREAK a", [[("", 1)], [("a", 1)]]),
        ("a BREAK BREAK b", [[("a", 1)], [("", 1)], [("b", 1)]]),
        ("BREAK", [[("", 1)]]),
        ("a BREAKFAST, a break, DAYBREAK", [[("a BREAKFAST, a break, DAYBREAK", 1)]]),
    ],
)
def test_break_begins_a_chunk(prompt: str, chunks: list[list[tuple[str, float]]]) -> None:
    assert parse(prompt) == [[Fragment(*pair) for pair in chunk] for chunk in chunks]


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("(red:10.5)", "The weight of `red` must be from -10 to 10 but is 10.5."),
        ("(red:-11)", "must be from -10 to 10 but is -11"),
        ("((red:5):5)", "but is 25"),
        (f"(red:{'9' * 400})", "but is inf"),
        (f"((red:0):{'9' * 400})", "but is nan"),
        ("(red:1.2.3)", "The weight of `:1.2.3)` must be a number but is '1.2.3'."),
        ("(" * 25 + "red", "but is 10.8347"),
        ("(" * 101 + "red", "at most 30 deep"),
        ("[a] b " * 65, "at most 64 pieces that weigh less than 1 but has 65"),
    ],
)
def test_a_weight_that_draws_noise_is_refused_with_a_sentence(prompt: str, sentence: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse(prompt)
    assert sentence in str(caught.value)
    assert not is_plain(prompt)


def test_a_weight_at_the_limit_is_taken() -> None:
    assert only_chunk("(a:10)(b:-10)") == [("a", 10), ("b", -10)]


def test_plain_is_what_parses_to_itself() -> None:
    assert all(map(is_plain, ["", " ", "a cat", "a: cat, 4:3", "a) cat]", "<b>", "ein Kätzchen, 猫", "x" * 9000]))
    assert not any(map(is_plain, ["(a)", "[a]", "(a", r"\(a\)", "a BREAK b", "BREAK", "(a:1)", "\\"]))


def test_the_texts_of_a_plain_prompt_give_it_back() -> None:
    dice = random.Random(1)
    letters = "ab:.,1 -+<>é猫\n\tBREAK"
    for _ in range(500):
        prompt = "".join(dice.choices(letters, k=dice.randrange(30)))
        if "BREAK" not in prompt:
            assert only_chunk(prompt) == [(prompt, 1)] and is_plain(prompt)


def test_no_text_is_lost_whatever_the_brackets() -> None:
    dice = random.Random(2)
    for _ in range(500):
        prompt = "".join(dice.choices(["(", ")", "[", "]", "ab", " ", ":0.9)", "\\(", "\\]"], k=dice.randrange(20)))
        text = "".join(fragment.text for chunk in parse(prompt) for fragment in chunk)
        assert text.count("ab") == prompt.count("ab") and text.count(" ") == prompt.count(" ")
        neighbours = only_chunk(prompt)
        assert all(one[1] != other[1] for one, other in itertools.pairwise(neighbours))


@pytest.mark.parametrize("piece", ["(a)", "[(a:1.1)]", " ", ":  ", "\\", "BREAK ", "<lora:", "a(b)" * 20 + "[" + "]"])
def test_the_longest_prompts_are_read_at_once(piece: str) -> None:
    prompt = (piece * 10_000)[:10_000]
    begun = time.perf_counter()
    parse(prompt)
    if "<lora" in piece:
        with pytest.raises(PromptError):
            extract_loras(prompt)
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("prompt", ["<lora:", "<lora:ink:", "(a:1.1.", "(a:9"])
def test_a_mistake_quotes_a_piece_of_the_prompt_and_not_all_of_it(prompt: str) -> None:
    with pytest.raises(PromptError) as error:
        (extract_loras if "lora" in prompt else parse)(prompt + "1" * 5000 + (")" if "(" in prompt else ""))
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a black-cat, a cat", "a <emb1>, a <emb0>"),
        ("cats, a cat.cat (cat:1.2)", "cats, a <emb0>.<emb0> (<emb0>:1.2)"),
        ("emb0 cat-like", "<emb2> <emb0>-like"),
        ("<emb0> <emb12> <embroidery>", "< <emb2>> < emb12> <embroidery>"),
    ],
)
def test_embeddings_have_their_tokens_whichever_was_learnt_first(text: str, told: str) -> None:
    tokens = {"cat": "<emb0>", "black-cat": "<emb1>", "emb0": "<emb2>"}
    assert spelled(text, tokens) == spelled(text, dict(reversed(tokens.items()))) == told
    assert spelled("a cat", {}) == "a cat"


def test_loras_are_taken_out_of_the_prompt() -> None:
    assert extract_loras("a cat") == ("a cat", [])
    assert extract_loras("a cat <lora:ink>") == ("a cat ", [("ink", 1.0)])
    assert extract_loras("<lora:ink:0.6>a (cat:1.2)<lora:My style v1.2:-.5>") == (
        "a (cat:1.2)",
        [("ink", 0.6), ("My style v1.2", -0.5)],
    )
    assert extract_loras("<lora: ink : 1 >")[1] == [("ink", 1.0)]
    assert extract_loras("a <b> <lorax:1>") == ("a <b> <lorax:1>", [])


@pytest.mark.parametrize(
    "lora", ["<lora:>", "<lora: >", "<lora::1>", "<lora:x:>", "<lora:x:much>", "<lora:x:1:2>", "<lora:x:nan>", "<lora:x:11>"]
)
def test_a_malformed_lora_is_named(lora: str) -> None:
    with pytest.raises(PromptError) as caught:
        extract_loras(f"a cat {lora}, a dog")
    assert f"`{lora}`" in str(caught.value)


def test_a_lora_that_is_not_closed_is_named() -> None:
    with pytest.raises(PromptError, match="`<lora:x:1 a dog`"):
        extract_loras("a cat <lora:x:1 a dog")
