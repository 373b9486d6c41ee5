"""Training: the config of a run, the plan of its updates, the loop, and its checkpoints."""

from danceopd.families import StudentConfig, Teacher
from danceopd.settings import ConfigError
from danceopd.training.callbacks import Callback
from danceopd.training.check import CheckedRun, CheckReport, check_run
from danceopd.training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from danceopd.training.config import Route, RunConfig, TrainConfig, ValidationSettings
from danceopd.training.config_file import load_run_config, write_config
from danceopd.training.distributed import Ranks
from danceopd.training.errors import (
    CheckpointError,
    DamagedCheckpointError,
    DivergedError,
    OutOfMemoryError,
    RankError,
)
from danceopd.training.loading import LoadedStudent, load_student
from danceopd.training.metrics import read_metrics
from danceopd.training.plan import Plan, SlotPlan
from danceopd.training.query import QuerySettings
from danceopd.training.report import write_run_report
from danceopd.training.result import TrainResult
from danceopd.training.trainer import DanceOPDTrainer

__all__ = [
    "Callback",
    "CheckReport",
    "CheckedRun",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "DamagedCheckpointError",
    "DanceOPDTrainer",
    "DivergedError",
    "LoadedStudent",
    "OutOfMemoryError",
    "Plan",
    "QuerySettings",
    "RankError",
    "Ranks",
    "Route",
    "RunConfig",
    "SlotPlan",
    "StudentConfig",
    "Teacher",
    "TrainConfig",
    "TrainResult",
    "ValidationSettings",
    "check_run",
    "list_checkpoints",
    "load_checkpoint",
    "load_run_config",
    "load_student",
    "read_metrics",
    "write_config",
    "write_run_report",
]
