"""The flow state space: noise levels, velocity fields, routes, the query law and the rollout.

Contract of the whole package: ``sigma`` runs from 1 (pure noise) to 0 (clean),
``x = (1 - sigma) x0 + sigma eps``, the velocity is ``v = dx / dsigma = eps - x0`` and a step is
``x' = x + (sigma' - sigma) v``.
"""

from danceopd.flow.adapters import AdapterField
from danceopd.flow.conditions import Condition
from danceopd.flow.fields import (
    GuidedField,
    MixtureField,
    ModelField,
    Predict,
    VelocityField,
    check_takes_samples,
    velocity_of,
)
from danceopd.flow.forwards import Forward, plan_forwards
from danceopd.flow.noise import draw_noise
from danceopd.flow.parts import models_of, parts_of
from danceopd.flow.query import QUERY_LAWS, QueryLaw
from danceopd.flow.replay import Replayed, replayed
from danceopd.flow.rollout import Rollout, Solver, rollout, rows_not_finite
from danceopd.flow.routing import route_probabilities, routed_velocity
from danceopd.flow.sigmas import SigmaGrid, shift_sigma
from danceopd.flow.stochastic import Trajectory, stochastic_rollout
from danceopd.flow.transfer import upload

__all__ = [
    "QUERY_LAWS",
    "AdapterField",
    "Condition",
    "Forward",
    "GuidedField",
    "MixtureField",
    "ModelField",
    "Predict",
    "QueryLaw",
    "Replayed",
    "Rollout",
    "SigmaGrid",
    "Solver",
    "Trajectory",
    "VelocityField",
    "check_takes_samples",
    "draw_noise",
    "models_of",
    "parts_of",
    "plan_forwards",
    "replayed",
    "rollout",
    "route_probabilities",
    "routed_velocity",
    "rows_not_finite",
    "shift_sigma",
    "stochastic_rollout",
    "upload",
    "velocity_of",
]
