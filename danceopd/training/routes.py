"""The routes of a run: their rows, their names, and the teachers that they ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from danceopd.families import Examples, Family, Teacher
from danceopd.methods import Method
from danceopd.settings import ConfigError
from danceopd.training.config import Route


def read_rows(family: Family, routes: Sequence[Route]) -> list[Examples]:
    """The rows of each route, every one of them checked.

    Raises:
        ConfigError: a route has none.
        ValueError: from the family, for data that cannot be used; the message names the row.
    """
    data = [family.data(route.data, route=route.teacher, columns=route.columns) for route in routes]
    for route, rows in zip(routes, data, strict=True):
        if not len(rows):
            raise ConfigError(f"the data '{route.data}' of route '{route.teacher}' has no rows: add some.")
    return data


def check_grids(
    family: Family, routes: Sequence[Route], data: Sequence[Examples], num_rollout_steps: int
) -> None:
    """Find the noise levels of a rollout for every shape that rows have.

    Raises:
        ConfigError: a shape has none, as of one step where the family's shift is set by its last one.
    """
    for route, rows in zip(routes, data, strict=True):
        for shape in family.shapes(rows):
            try:
                family.grid(num_rollout_steps, shape)
            except ValueError as error:
                raise ConfigError(
                    f"num_rollout_steps={num_rollout_steps} cannot be had for the latents "
                    f"{'x'.join(map(str, shape))} of route '{route.teacher}': {error}"
                ) from None


def asked_teachers(teachers: Sequence[Teacher], routes: Sequence[Route], method: Method) -> list[Teacher]:
    """Those that some route asks, in their order, and then those that only the method asks."""
    if not method.needs_teachers:
        return []
    of_routes = {route.teacher for route in routes}
    first = [teacher for teacher in teachers if teacher.name in of_routes]
    others = set(method.other_teachers) - of_routes
    return first + [teacher for teacher in teachers if teacher.name in others]


def name_routes(routes: Sequence[Route]) -> list[str]:
    """What metrics call the routes: the teacher, numbered when several routes ask the same one."""
    count: Counter[str] = Counter()
    names = []
    for route in routes:
        count[route.teacher] += 1
        names.append(
            route.teacher if count[route.teacher] == 1 else f"{route.teacher}#{count[route.teacher]}"
        )
    return names
