"""The training loop: what is done when.

What an update *is* lives in `danceopd.methods`, what it draws in `danceopd.training.plan`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danceopd.data import check_targets
from danceopd.families import Examples, Family, Prepared, Teacher
from danceopd.flow import SigmaGrid
from danceopd.methods import Limits, UpdateResult
from danceopd.settings import ConfigError
from danceopd.training.batch import build_batches
from danceopd.training.callbacks import Callback, Callbacks
from danceopd.training.checkpoint import Checkpoint, prune_checkpoints, save_checkpoint
from danceopd.training.config import Route, RunConfig, TrainConfig, as_mapping, check_routes
from danceopd.training.config_file import write_config
from danceopd.training.errors import DivergedError
from danceopd.training.grids import Grids
from danceopd.training.interrupt import GracefulStop
from danceopd.training.memory import out_of_memory_told
from danceopd.training.metrics import MetricsFile, describe_update
from danceopd.training.plan import Plan, SlotPlan
from danceopd.training.progress import ProgressReport
from danceopd.training.provenance import Sources
from danceopd.training.report import RunReport
from danceopd.training.result import TrainResult
from danceopd.training.routes import asked_teachers, check_grids, name_routes, read_rows
from danceopd.training.run_folder import (
    CACHE,
    CHECKPOINTS,
    CONFIG,
    METRICS,
    Start,
    check_writable,
    export_whole,
    find_start,
    open_folder,
    tell_start,
)
from danceopd.training.schedule import learning_rate
from danceopd.training.seeding import seeded
from danceopd.training.trackers import Trackers
from danceopd.training.weights import RunningMean, TrainedWeights

_INITIAL_VALUES, _UPDATE = 0, 1  # places in the run that torch's generators are seeded for


class DanceOPDTrainer:
    """Distils frozen fields into one student (DanceOPD, arXiv 2606.27377).

    Everything a run can get wrong in its settings is checked here, before a file is written.

    Args:
        family: the model family, see `danceopd.load_family`.
        teachers: the frozen fields, each with its own name.
        routes: which teacher is asked on which data.
        config: the numbers of the run. A `RunConfig` does as well; its own teachers and routes do not count.
        data: the rows of each route where `read_rows` has read them before; read here when None.
        callbacks: what else watches the run, beside progress and whatever the config asks for.

    Attributes:
        field: the student as it is trained, under its guidance scale.
        asked: the teachers that some route asks; `teachers` are their fields, in this order. Others are known
            but never loaded.

    Raises:
        ConfigError: in one sentence, for settings that do not fit together.
        ValueError: from the family, for a teacher, student or data it does not know.
    """

    def __init__(
        self,
        *,
        family: Family,
        teachers: Sequence[Teacher],
        routes: Sequence[Route],
        config: TrainConfig,
        data: Sequence[Examples] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        check_routes(teachers, routes, config.method)
        check_writable(Path(config.output_dir))
        self.family = family
        self.config = config
        self.output_dir = Path(config.output_dir)
        self.route_names = name_routes(routes)
        self.data = read_rows(family, routes) if data is None else list(data)
        self.method = config.method
        if self.method.needs_targets:
            check_targets(self.data)
        check_grids(family, routes, self.data, config.num_rollout_steps)
        self.asked = asked_teachers(teachers, routes, self.method)
        # A method without teachers still counts the routes' names: it learns from data grouped by them.
        names = [teacher.name for teacher in self.asked] or list(dict.fromkeys(r.teacher for r in routes))
        self.teacher_of_route = [names.index(route.teacher) for route in routes]
        rows = dict(zip(self.route_names, self.data, strict=True))
        self.sources = Sources(family, config.student, teachers, self.asked, rows)
        with seeded(config.seed, _INITIAL_VALUES, device=family.device):
            self.student = family.student(config.student, teachers)
            self.teachers = [family.teacher(teacher) for teacher in self.asked]
        self.weights = TrainedWeights(self.student.module, config)
        self.mean = RunningMean(self.weights.masters, config.ema_decay) if config.ema_decay else None
        self.field = family.guided(self.student.field, config.student_guidance_scale)
        self.plan = Plan(
            seed=config.seed,
            route_weights=tuple(route.weight for route in routes),
            route_sizes=tuple(len(rows) for rows in self.data),
            query=config.query_law,
            num_steps=config.num_rollout_steps,
            drop_probability=config.drop_condition,
            slots_per_rank=config.samples_per_update,
            num_states=self.method.num_states(config.num_rollout_steps),
            group_size=self.method.group_size,
            stratified=config.query is not None and config.query.stratified,
            grid_of=self._grid_of,
        )
        self.run = self._describe(teachers, routes)
        self.made_of: Mapping[str, Any] = {}
        own: list[Callback] = [ProgressReport(), RunReport()]
        if config.report_to:
            own.append(Trackers(config.report_to))
        if config.validation is not None:
            own.append(Grids(config.validation, family))
        self.callbacks = Callbacks([*own, *callbacks])
        self.prepared: Sequence[Prepared] = ()
        self.step = 0
        self._saved_step = 0
        self._between_updates = True

    def find_start(self, resume: bool | str | Path = True) -> Checkpoint | None:
        """The checkpoint that ``train`` would start from, None for the beginning; reads only, writes nothing.

        Raises:
            ConfigError: if ``output_dir`` holds another run, or one of other files or rows.
            CheckpointError: if no checkpoint is whole.
        """
        return self._find_start(resume).checkpoint

    def _find_start(self, resume: bool | str | Path) -> Start:
        settings = as_mapping(self.run) | self._rows()
        return find_start(self.output_dir, settings, resume, lambda: self.sources.content(self.output_dir))

    def train(self, resume: bool | str | Path = True) -> TrainResult:
        """Train to ``max_steps``; SIGINT or SIGTERM save a checkpoint and end the run between updates.

        Args:
            resume: True continues the newest whole checkpoint that ``output_dir`` holds, or starts a run;
                False insists on a new run; a path names the checkpoint folder to continue from.

        Raises:
            ConfigError: if ``output_dir`` holds another run, or one of other files or rows, is in use, or
                cannot be written.
            CheckpointError: if the checkpoint named is damaged, or all in ``output_dir`` are.
            OSError: if the disk is full; the checkpoints before that stay.
            OutOfMemoryError: if an update finds no room; it names the settings to change.
            DivergedError: if a loss or gradient is not finite. As after any error, the state before that
                update is saved.
        """
        if not self.output_dir.exists():
            self.find_start(resume)  # a bad `resume` must not leave a folder behind
        with ExitStack() as stack:
            stack.enter_context(open_folder(self.output_dir))
            # Under the lock: another process may have trained here a moment ago.
            start = self._find_start(resume)
            if start.checkpoint is not None:
                self._restore(start.checkpoint)
            elif self.step or not self._between_updates:
                raise ConfigError(
                    "this trainer has trained already and its checkpoints are gone: make a new trainer."
                )
            write_config(self.run, self.output_dir / CONFIG)
            self.made_of = self.sources.write(self.output_dir, self.family.device)
            self.prepare()
            tell_start(start, self.made_of)
            prune_checkpoints(self.output_dir / CHECKPOINTS, self.config.keep_checkpoints)
            metrics = stack.enter_context(MetricsFile(self.output_dir / METRICS, self.step))
            stop = stack.enter_context(GracefulStop())
            stack.enter_context(self.callbacks.watching())
            self.callbacks.on_start(self)
            self._loop(metrics, stop)
            done = self.step == self.config.max_steps
            exported = export_whole(self.output_dir, self._export) if done else None
            result = TrainResult(self.step, self.output_dir, exported, None if done else stop.signal)
            self.callbacks.on_end(result)
        return result

    def prepare(self) -> None:
        """Encode the rows of all routes, once; `train` does it where it was not done."""
        if not self.prepared:
            folder = Path(self.config.cache_dir or self.output_dir / CACHE)
            masks = self.config.unedited_weight is not None
            self.prepared = self.family.prepare(
                self.data, folder, targets=self.method.needs_targets, masks=masks
            )

    def _loop(self, metrics: MetricsFile, stop: GracefulStop) -> None:
        config = self.config
        try:
            while self.step < config.max_steps and stop.signal is None:
                with out_of_memory_told(self.run, self.step + 1):
                    line = self._one_update()
                # First, so that a disk without room for the line does not cost the weights.
                self.step, self._between_updates = line["step"], True
                if self.step % config.log_every == 0:
                    metrics.append(line)
                self.callbacks.on_update(line)
                if self.step % config.save_every == 0:
                    self._save(metrics)
                    prune_checkpoints(self.output_dir / CHECKPOINTS, config.keep_checkpoints)
        finally:
            # Also after an error: the weights are those of the last whole update, maybe hours of work.
            if self._between_updates and self._saved_step != self.step:
                self._save(metrics)
        prune_checkpoints(self.output_dir / CHECKPOINTS, config.keep_checkpoints)

    def _one_update(self) -> dict[str, Any]:
        began = time.perf_counter()
        self.weights.discard_gradients()  # an update that failed half way may have left some
        slots = self.plan.step(self.step)
        with seeded(self.config.seed, _UPDATE, self.step, device=self.family.device):
            result = self._gradient(slots)
        rate, norm = learning_rate(self.step, self.config), self.weights.clip(self.config.max_grad_norm)
        line = {**self._describe_update(slots, result), "grad_norm": norm, "learning_rate": rate}
        self._check_finite(line)
        self._between_updates = False
        self.weights.step(rate)
        if self.mean is not None:
            self.mean.update(self.weights.masters, self.step)
        seconds = time.perf_counter() - began
        return {**line, "time": {"seconds": seconds, "samples_per_second": len(slots) / seconds}}

    def _gradient(self, slots: Sequence[SlotPlan]) -> UpdateResult:
        """Add the gradient of the update's mean loss, one shape of latents after the other."""
        config = self.config
        teachers = {teacher.name: field for teacher, field in zip(self.asked, self.teachers, strict=True)}
        limits = Limits(config.batch_size, config.rollout_batch_size, len(slots), config.rollout_solver)
        count = self.plan.num_states
        parts: list[tuple[list[int], Tensor]] = []
        forwards = 0
        for part in build_batches(
            slots,
            self.family,
            self.prepared,
            self.teacher_of_route,
            config.num_rollout_steps,
            needs_targets=self.method.needs_targets,
            unedited_weight=config.unedited_weight,
        ):
            result = self.method.update(self.field, teachers, part.batch, part.grid, limits)
            parts.append((part.slots, torch.cat([result.loss[:, None], result.error, result.sigma], dim=1)))
            forwards += result.forwards
        seen = torch.empty(len(slots), 1 + 2 * count)
        for places, values in parts:  # read at the end, so that no shape waits for the one before it
            seen[places] = values.cpu()
        loss, error, sigma = seen.split([1, count, count], dim=1)
        return UpdateResult(loss[:, 0], error, sigma, forwards)

    def _grid_of(self, route: int, row: int) -> SigmaGrid:
        return self.family.grid(self.config.num_rollout_steps, self.prepared[route].shape(row))

    def _describe_update(self, slots: Sequence[SlotPlan], result: UpdateResult) -> dict[str, Any]:
        return {
            "step": self.step + 1,
            **describe_update([self.route_names[slot.route] for slot in slots], result),
        }

    def _check_finite(self, line: dict[str, Any]) -> None:
        for key in ("loss", "grad_norm"):
            if not math.isfinite(line[key]):
                worst = [name for name, loss in line["losses"].items() if not math.isfinite(loss)]
                where = f" on route '{worst[0]}'" if worst else ""
                saved = "no update was made yet"
                if self.step:
                    saved = f"the state before it is saved in '{self.output_dir / CHECKPOINTS}'"
                raise DivergedError(
                    f"{key} became {line[key]} in update {line['step']}{where}: {saved}; lower "
                    f"learning_rate={self.config.learning_rate}, or look at what that teacher returns."
                )

    def _save(self, metrics: MetricsFile) -> None:
        # Noted before it is done, so that a full disk is reported once and not tried again on the way out.
        self._saved_step = self.step
        checkpoint = Checkpoint(
            step=self.step,
            student=self.weights.masters,
            optimizer=self.weights.optimizer_tensors(),
            ema=self.mean.mean if self.mean else None,
            run=as_mapping(self.run) | self._rows(),
            made_of=self.made_of,
        )
        try:
            metrics.sync()
        finally:
            saved = save_checkpoint(self.output_dir / CHECKPOINTS, checkpoint)
        self.callbacks.on_save(saved)

    def _restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.step > self.config.max_steps:
            raise ConfigError(
                f"max_steps={self.config.max_steps} is less than the {checkpoint.step} updates that are done "
                "already: raise it, or name another output_dir."
            )
        self.weights.load(checkpoint.student, checkpoint.optimizer)
        if self.mean is not None:
            self.mean.load(checkpoint.ema or {})
        self.step = self._saved_step = checkpoint.step
        self._between_updates = True

    def _export(self, folder: Path) -> Path:
        weights = self.mean.mean if self.mean else self.weights.masters
        return self.student.export(folder, {name: weight.detach() for name, weight in weights.items()})

    def _rows(self) -> dict[str, Any]:
        """Rows per route: other data draws other samples, so it makes another run."""
        return {"rows": list(self.plan.route_sizes)}

    def _describe(self, teachers: Sequence[Teacher], routes: Sequence[Route]) -> RunConfig:
        """The run as a config file describes it, also when it was put together in Python."""
        settings = {name: getattr(self.config, name) for name in TrainConfig.__dataclass_fields__}
        dtype: Any = str(next(self.student.module.parameters()).dtype).removeprefix("torch.")
        return RunConfig(  # checks what it is given, so a dtype that cannot be trained is told here
            **settings,
            family=self.family.name,
            teachers=list(teachers),
            routes=list(routes),
            resolution=getattr(self.family, "resolution", None),  # of families with a choice of sizes
            dtype=self.config.dtype if isinstance(self.config, RunConfig) else dtype,
            device=str(self.family.device),
        )
