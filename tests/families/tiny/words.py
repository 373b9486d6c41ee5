"""Tokenizers trained here, wrapped as the classes that the pipelines expect.

The corpus holds every prompt template of the pipelines, and training merges each of its words into one token:
a template then has as many tokens as with the real vocabulary; Qwen-Image cuts 34 off (64 when editing).
"""

from __future__ import annotations

import json
import re
from functools import cache

from diffusers import QwenImageEditPlusPipeline, QwenImagePipeline
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, T5TokenizerFast

PROMPTS = (
    "a red circle on a blue square",
    "two green stars",
    "make the house yellow and put a tall tree to the left of it, in the rain, at night, seen from far away",
)
QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
MISTRAL_SPECIAL = (
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[INST]",
    "[/INST]",
    "[IMG]",
)
MISTRAL_CHAT = (
    "<s>{% for message in messages %}{% set text = message['content'][0]['text'] %}"
    "{% if message['role'] == 'system' %}[SYSTEM_PROMPT]{{ text }}[/SYSTEM_PROMPT]"
    "{% else %}[INST]{{ text }}[/INST]{% endif %}{% endfor %}"
)
MISTRAL_PAD = MISTRAL_SPECIAL.index("<pad>")


def corpus() -> list[str]:
    """What the tokenizers are trained on, each line twice: training drops pairs that were seen once."""
    without_parts = (QwenImagePipeline, (None,) * 5), (QwenImageEditPlusPipeline, (None,) * 6)
    templates = [pipeline(*parts).prompt_template_encode for pipeline, parts in without_parts]
    return [*PROMPTS, *templates, SYSTEM_MESSAGE, "user assistant Picture 1: <think>\n\n</think>\n\n"] * 2


def _trainer(special: tuple[str, ...]) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )


@cache
def _byte_pairs(special: tuple[str, ...]) -> str:
    """A byte-level tokenizer as JSON; cached as text because tokenizers can be changed in place."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    text = corpus()
    for token in special:
        text = [line.replace(token, "\n") for line in text]
    tokenizer.train_from_iterator(text, _trainer(special))
    return tokenizer.to_str()


def _model(serialised: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(serialised)["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def qwen() -> Qwen2Tokenizer:
    vocab, merges = _model(_byte_pairs(QWEN_SPECIAL))
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        additional_special_tokens=list(QWEN_SPECIAL[1:]),
        chat_template=QWEN_CHAT,
        model_max_length=4096,
    )


def mistral() -> PreTrainedTokenizerFast:
    """In the place of FLUX.2's processor, which for a text without images does what this tokenizer does."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_pairs(MISTRAL_SPECIAL)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        chat_template=MISTRAL_CHAT,
        model_max_length=4096,
    )


def clip() -> CLIPTokenizer:
    """Every word of the prompts, spelt out by merges from left to right.

    Not trained: with a suffix at the end of words, training numbers its alphabet anew in each process.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in sorted(set(re.findall("[a-z]+", " ".join(PROMPTS).lower()))):
        start, *rest = [*word[:-1], f"{word[-1]}</w>"]
        for letter in rest:
            merges[start, letter] = None
            start += letter
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in merges]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=77)


def t5() -> T5TokenizerFast:
    """A vocabulary of whole words and single characters, with the likelier words first."""
    letters = sorted(set("".join(PROMPTS) + "abcdefghijklmnopqrstuvwxyz0123456789.,'-") - {" "})
    words = sorted({word.strip(",") for prompt in PROMPTS for word in prompt.split()})
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab = (
        special
        + [(f"▁{word}", -4.0) for word in words]
        + [(letter, -8.0) for letter in letters if letter != " "]
    )
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=512)
