"""What a family is asked to load: teachers, and where the student starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PlainValidator, model_validator

from danceopd.flow.fields import check_takes_samples
from danceopd.settings import Flag, Integer, Number, Text, settings

_RANK: Final = 16


def _field(value: object) -> Any:
    if value is not None:
        try:
            check_takes_samples(value, "field")
        except TypeError as error:
            raise ValueError(str(error)) from None
    return value


@settings
class Teacher:
    """A frozen velocity field to learn from: the family's base, a checkpoint, a LoRA, or guidance on one.

    ``Teacher("t2i")`` is the base itself; ``Teacher("guided", guidance_scale=4.5)`` is the base under
    classifier-free guidance. In Python a teacher may also be any `danceopd.flow.VelocityField`:
    ``Teacher("steep", field=my_field, identity="guided 2.5 below sigma 0.75")``.
    """

    name: Text = Field(kw_only=False, description="Name that routes and metrics use; unique in a run.")
    checkpoint: Text | None = Field(
        default=None, description="Full weights: a path, or a name the family knows; the base when not given."
    )
    lora: Text | None = Field(
        default=None, description="LoRA adapter on those weights: a path, or a name the family knows."
    )
    weight_name: Text | None = Field(
        default=None, description="File inside the LoRA's folder or repository when it holds several."
    )
    scale: Number = Field(default=1.0, description="Strength of the LoRA; 1 as trained, 0 none.")
    guidance_scale: Number = Field(
        default=1.0, ge=0.0, le=100.0, description="Classifier-free guidance of the teacher; 1 is none."
    )
    guidance_vector: Number | None = Field(
        default=None,
        ge=0.0,
        le=100.0,
        description="Guidance that a guidance-distilled model takes as an input (FLUX.1-dev, FLUX.2); the "
        "family's usual value when not given.",
    )
    offload: Flag = Field(
        default=False, description="Keep the checkpoint's weights on the CPU while another teacher is asked."
    )
    quantization: Literal["int8"] | None = Field(
        default=None,
        description="Hold the checkpoint's linear layers in 8 bits; None keeps them as they are.",
    )

    field: Annotated[Any, PlainValidator(_field)] = Field(
        default=None, exclude=True, repr=False, description="A velocity field of Python code; in no file."
    )
    identity: Text | None = Field(
        default=None,
        description="What a field of Python code is, in the words of the script that makes it; no command "
        "can ask such a teacher.",
    )

    @model_validator(mode="after")
    def _a_field_has_an_identity(self) -> Teacher:
        if self.field is not None and self.identity is None:
            raise ValueError(
                f"teacher '{self.name}' has a field but no identity, by which a run that is continued knows "
                "it: say in a text what it computes, such as identity='base, guided 2.5 below sigma 0.75'."
            )
        for key in ("checkpoint", "lora", "guidance_vector"):
            if self.identity is not None and getattr(self, key) is not None:
                raise ValueError(
                    f"teacher '{self.name}' has a field of its own (identity={self.identity!r}) and "
                    f"{key}={getattr(self, key)!r}: drop one of the two."
                )
        return self

    @model_validator(mode="after")
    def _lora_keys_need_a_lora(self) -> Teacher:
        if self.lora is None and self.weight_name is not None:
            raise ValueError(
                f"teacher '{self.name}' has weight_name={self.weight_name!r} but no lora: name the lora too."
            )
        for key in ("offload", "quantization"):
            if getattr(self, key) and self.checkpoint is None:
                raise ValueError(
                    f"teacher '{self.name}' has {key}={getattr(self, key)!r} but no checkpoint of its own: "
                    "the base is shared with the student; name a checkpoint, or drop the key."
                )
        if self.quantization and self.lora is not None:
            raise ValueError(
                f"teacher '{self.name}' has quantization and a lora, but an adapter is not put on rounded "
                "weights: merge it into the checkpoint, or drop one of the two."
            )
        if self.lora is None and self.scale != 1.0:
            raise ValueError(
                f"teacher '{self.name}' has scale={self.scale} but no lora to scale: name the lora too."
            )
        return self


def _init_value(value: object) -> object:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Mapping) and value and all(map(_is_factor, value.values())):
        if "base" in value:
            raise ValueError(
                f"student.init scales 'base' by {value['base']}, but every start is the base plus "
                "differences from it: leave 'base' out, or write init: base."
            )
        return {str(name): float(factor) for name, factor in value.items()}
    raise ValueError(f"student.init must be a name, or a mapping of names to factors, got {value!r}.")


def _is_factor(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


Init = Annotated[str | dict[str, float], PlainValidator(_init_value)]


@settings
class StudentConfig:
    """What is trained, and where it starts."""

    init: Init = Field(
        default="base",
        description="Start of the student: 'base', or a checkpoint or LoRA (path or known name; but for "
        "ShapesWorld also the name of a teacher that has one, whose guidance is left out); or several with "
        "factors, whose differences from the base are added to it: {local: 1.0, global: 0.5}.",
    )
    kind: Literal["auto", "full", "lora"] = Field(
        default="auto",
        description="Train all weights, or a LoRA on frozen ones; auto: a LoRA, but all of ShapesWorld's.",
    )
    rank: Integer = Field(default=_RANK, ge=1, le=4096, description="Rank of the LoRA.")
    alpha: Number | None = Field(
        default=None,
        gt=0.0,
        description="LoRA alpha; its output is scaled by alpha / rank. The rank when not given.",
    )
    targets: list[Text] | None = Field(
        default=None,
        min_length=1,
        description="Module names that get a LoRA; the family's choice when not given.",
    )

    guidance_vector: Number | None = Field(
        default=None,
        ge=0.0,
        le=100.0,
        description="As the teachers' guidance_vector: what the student is trained, and later sampled, with.",
    )
    gradient_checkpointing: Flag = Field(
        default=False, description="Recompute activations in the backward pass: less memory, more time."
    )

    def settled(self, usual: Literal["full", "lora"]) -> StudentConfig:
        """The same with a kind that is not auto: `usual` where it was.

        Raises:
            ConfigError: a key is set that is for the other kind.
        """
        return self if self.kind != "auto" else dataclasses.replace(self, kind=usual)

    @model_validator(mode="after")
    def _lora_keys_need_a_lora(self) -> StudentConfig:
        if self.kind == "full":
            for key, default in (("rank", _RANK), ("alpha", None), ("targets", None)):
                value = getattr(self, key)
                if value != default:
                    raise ValueError(
                        f"student.{key}={value!r} is for a LoRA, but student.kind is 'full': set that to "
                        f"'lora', or leave {key} out."
                    )
        return self
