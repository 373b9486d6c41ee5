"""The law of the queried state as a config gives it: by name, or by numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from danceopd.flow import QUERY_LAWS, QueryLaw
from danceopd.settings import Flag, Integer, Number, Shown, nearest, settings

_LOW: Final = QUERY_LAWS["low"]


@settings
class QuerySettings:
    """Which rollout state is queried: number floor(N * u) of N, u ~ Beta(alpha, beta), 0 being pure noise.

    A config may give the name of one of `danceopd.flow.QUERY_LAWS` instead, such as ``query: middle``.
    """

    alpha: Number = Field(
        default=_LOW.alpha, gt=0.0, le=1e4, description="First parameter of the Beta law; larger: less noise."
    )
    beta: Number = Field(
        default=_LOW.beta, gt=0.0, le=1e4, description="Second parameter of the Beta law; larger: more noise."
    )
    index: Integer | None = Field(
        default=None, ge=0, description="Query this state always, in place of the Beta law."
    )
    over: Literal["index", "sigma"] = Field(
        default="index",
        description="What u is a share of: the rollout's steps, or the way in sigma from noise to clean, "
        "which prefers the same noise levels whatever the number of steps and the shift.",
    )
    uniform_share: Number = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Share of the queries that are spread evenly in place of after the Beta law.",
    )
    stratified: Flag = Field(
        default=False, description="Spread the queries of each update evenly over their law."
    )

    @model_validator(mode="after")
    def _one_law(self) -> QuerySettings:
        if self.index is not None and (self.stratified or self.over != "index" or self.uniform_share):
            key = "stratified" if self.stratified else "over" if self.over != "index" else "uniform_share"
            raise ValueError(f"query.{key} is of no use to one fixed state, index={self.index}: drop one.")
        if self.index is not None and (self.alpha, self.beta) != (_LOW.alpha, _LOW.beta):
            raise ValueError(
                f"query.index={self.index} takes the place of a Beta law, but alpha={self.alpha} and "
                f"beta={self.beta} give one: drop the index, or these."
            )
        return self

    @property
    def law(self) -> QueryLaw:
        """The law that these numbers describe."""
        return QueryLaw(self.alpha, self.beta, self.index, self.over, self.uniform_share)


def _law_of_name(value: object) -> object:
    if isinstance(value, Mapping) and "law" in value:
        rest = {key: other for key, other in value.items() if key != "law"}
        if rest.keys() & {"alpha", "beta", "index"}:
            raise ValueError(f"query.law={value['law']!r} gives the numbers: drop alpha, beta and index.")
        return {**_numbers(value["law"]), **rest}
    return _numbers(value) if isinstance(value, str) else value


def _numbers(name: object) -> dict[str, float]:
    if not isinstance(name, str) or name not in QUERY_LAWS:
        raise ValueError(f"query '{name}' is unknown: {nearest(str(name), QUERY_LAWS)}")
    return {"alpha": QUERY_LAWS[name].alpha, "beta": QUERY_LAWS[name].beta}


Query = Annotated[QuerySettings, BeforeValidator(_law_of_name), Shown("name or mapping (see below)")]
