from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danceopd.shapesworld import TaskSet
from danceopd.shapesworld.language import EMBEDDING_DIM, MAX_TOKENS, VOCABULARY, embed, tokenize
from tests.shapesworld.strategies import CATEGORIES


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_prompt_has_its_own_tokens(category: str) -> None:
    task_set = TaskSet((category,))
    prompts = sorted({task_set[row].prompt for row in range(1000)})
    tokens = tokenize(prompts)
    assert len(tokens.unique(dim=0)) == len(prompts)
    words = [" ".join(VOCABULARY[token] for token in row if token) for row in tokens.tolist()]
    assert words == prompts


def test_the_vocabulary_has_no_idle_word() -> None:
    task_set = TaskSet(CATEGORIES)
    used = {word for row in range(6000) for word in task_set[row].prompt.split()}
    assert used == set(VOCABULARY[1:])


def test_the_empty_prompt_is_padding() -> None:
    assert torch.equal(tokenize(["", "  "]), torch.zeros(2, MAX_TOKENS, dtype=torch.long))


def test_case_and_spaces_do_not_matter() -> None:
    assert torch.equal(*tokenize(["Red  CIRCLE on grey", "red circle on grey"]).split(1))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("red circel on grey", "unknown word 'circel'; did you mean 'circle'?"),
        ("red 🦊 on grey", "unknown word '🦊'; the words are: circle, square"),
        ("<pad> circle", "unknown word '<pad>'"),
        ("red circle and red circle and red circle on grey", "has 10 words, but ShapesWorld reads at most 8"),
    ],
)
def test_other_prompts_are_refused_in_one_sentence(prompt: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        tokenize(["circle on grey", prompt])
    assert message in str(error.value)
    assert repr(prompt) in str(error.value)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, len(VOCABULARY) - 1), min_size=MAX_TOKENS, max_size=MAX_TOKENS))
def test_an_embedding_holds_word_neighbours_and_bag(row: list[int]) -> None:
    embedding = embed(torch.tensor([row]))
    assert embedding.shape == (1, MAX_TOKENS, EMBEDDING_DIM)
    word, before, after, bag = (embedding[0] > 0).unflatten(1, (4, len(VOCABULARY))).unbind(1)
    padded = [0, *row, 0]
    for position in range(MAX_TOKENS):
        assert word[position].nonzero().flatten().tolist() == [row[position]]
        assert before[position].nonzero().flatten().tolist() == [padded[position]]
        assert after[position].nonzero().flatten().tolist() == [padded[position + 2]]
        assert bag[position].nonzero().flatten().tolist() == sorted(set(row))
