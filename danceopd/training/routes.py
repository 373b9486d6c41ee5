"""The routes of a run: their rows, their names, and the teachers that they ask."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

from danceopd.families import Examples, Family, Teacher
from danceopd.families.base import check_has_field
from danceopd.flow import SigmaGrid
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


def find_grids(
    family: Family, routes: Sequence[Route], data: Sequence[Examples], num_rollout_steps: int
) -> Callable[[int, int], SigmaGrid]:
    """The noise levels of a rollout for every shape that rows have, as ``grid_of(route, row)``.

    Raises:
        ConfigError: a shape has none, as of one step where the family's shift is set by its last one.
    """
    grids = []
    for route, rows in zip(routes, data, strict=True):
        of_route = []
        for shape, alike in family.shapes(rows).items():
            try:
                of_route.append((family.grid(num_rollout_steps, shape), alike))
            except ValueError as error:
                raise ConfigError(
                    f"num_rollout_steps={num_rollout_steps} cannot be had for the latents "
                    f"{'x'.join(map(str, shape))} of route '{route.teacher}': {error}"
                ) from None
        grids.append(of_route)

    def grid_of(route: int, row: int) -> SigmaGrid:
        *others, (grid, _) = grids[route]
        return next((other for other, alike in others if _holds(alike, row)), grid)

    return grid_of


def _holds(rising: Sequence[int], row: int) -> bool:
    place = bisect_left(rising, row)
    return place < len(rising) and rising[place] == row


def asked_teachers(teachers: Sequence[Teacher], routes: Sequence[Route], method: Method) -> list[Teacher]:
    """Those that some route asks, in their order, and then those that only the method asks.

    Raises:
        ConfigError: one is a field of Python code, of which only the identity is here.
    """
    if not method.needs_teachers:
        return []
    of_routes = {route.teacher for route in routes}
    first = [teacher for teacher in teachers if teacher.name in of_routes]
    others = set(method.other_teachers) - of_routes
    asked = first + [teacher for teacher in teachers if teacher.name in others]
    for teacher in asked:
        check_has_field(teacher)
    return asked


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
