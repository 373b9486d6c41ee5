"""The words of ShapesWorld: captions and edit instructions, and the tokens a model sees.

The grammar is one line per category:

    single               SHAPE on BACKGROUND
    two                  SHAPE and SHAPE on BACKGROUND
    counting             two|three|four SHAPEs on BACKGROUND
    colours              COLOUR SHAPE on BACKGROUND
    position             SHAPE left of|right of|above|below SHAPE on BACKGROUND
    colour-attribution   COLOUR SHAPE and COLOUR SHAPE on BACKGROUND
    subject-add          add COLOUR SHAPE
    subject-replace      replace COLOUR SHAPE with COLOUR SHAPE
    subject-remove       remove COLOUR SHAPE
    colour-alter         make COLOUR SHAPE COLOUR
    background-change    make background BACKGROUND
    style-change         make style STYLE

Captions name the background on purpose: a caption that leaves it open lets a student collapse onto one
background unseen.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch

from .world import BACKGROUNDS, COLOURS, SHAPES, STYLES

PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
NUMBERS = {2: "two", 3: "three", 4: "four"}
RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}

PAD = "<pad>"
VOCABULARY: tuple[str, ...] = (
    PAD,
    *SHAPES,
    *PLURALS.values(),
    *COLOURS,
    *BACKGROUNDS,
    *STYLES,
    *NUMBERS.values(),
    *("left", "right", "of", "above", "below", "and", "on", "with"),
    *("add", "replace", "remove", "make", "background", "style"),
)
MAX_TOKENS = 8
EMBEDDING_DIM = 4 * len(VOCABULARY)
# Brings a one-hot row to unit size after the default initialisation of the projection that reads it.
EMBEDDING_SCALE = 6.0
_TOKEN = {word: token for token, word in enumerate(VOCABULARY)}


def tokenize(prompts: Sequence[str]) -> torch.Tensor:
    """Token ids [B, MAX_TOKENS], padded with 0; the empty prompt is all padding.

    Raises:
        ValueError: a prompt is too long or has a word that the world does not know.
    """
    tokens = torch.zeros(len(prompts), MAX_TOKENS, dtype=torch.long)
    for b, prompt in enumerate(prompts):
        words = prompt.lower().split()
        if len(words) > MAX_TOKENS:
            raise ValueError(
                f"prompt {prompt!r} has {len(words)} words, but ShapesWorld reads at most {MAX_TOKENS}."
            )
        for position, word in enumerate(words):
            if word not in _TOKEN or word == PAD:
                raise ValueError(f"prompt {prompt!r} has the unknown word {word!r}; {_advice(word)}")
            tokens[b, position] = _TOKEN[word]
    return tokens


def embed(tokens: torch.Tensor) -> torch.Tensor:
    """The frozen text encoder: token ids [B, L] -> embeddings [B, L, EMBEDDING_DIM], float32.

    Each word is told together with its neighbours and with the bag of all words of its prompt, in one-hot
    form: what a real text encoder's context gives a diffusion model, without weights. Padding is embedded
    like a word.
    """
    words = torch.nn.functional.one_hot(tokens, len(VOCABULARY)).to(torch.float32)
    pad = words.new_zeros(len(words), 1, len(VOCABULARY))
    pad[..., 0] = 1.0
    before = torch.cat([pad, words[:, :-1]], dim=1)
    after = torch.cat([words[:, 1:], pad], dim=1)
    bag = words.amax(dim=1, keepdim=True).expand_as(words)
    return EMBEDDING_SCALE * torch.cat([words, before, after, bag], dim=-1)


def _advice(word: str) -> str:
    near = difflib.get_close_matches(word, VOCABULARY[1:], n=1)
    return f"did you mean {near[0]!r}?" if near else f"the words are: {', '.join(VOCABULARY[1:])}."
