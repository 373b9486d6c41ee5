"""The training loop: what is done when.

What an update *is* lives in `danceopd.methods`, what it draws in `danceopd.training.plan`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from danceopd.data import check_masks, check_targets
from danceopd.families import Examples, Family, Prepared, Teacher
from danceopd.methods import Limits, Teachers, UpdateResult
from danceopd.settings import ConfigError
from danceopd.signals import GracefulStop, stopping_at_once
from danceopd.training.batch import build_batches, in_order_of_slots
from danceopd.training.callbacks import Callback, Callbacks
from danceopd.training.checkpoint import Checkpoint, load_checkpoint, prune_checkpoints, save_checkpoint
from danceopd.training.compiling import compile_failures_told, compile_fields, tell_compiling
from danceopd.training.config import Route, TrainConfig, as_mapping, check_routes, describe_run
from danceopd.training.config_file import write_config
from danceopd.training.distributed import Ranks
from danceopd.training.divergence import check_finite
from danceopd.training.errors import RanksDifferError
from danceopd.training.exporting import export_whole
from danceopd.training.grids import Grids
from danceopd.training.memory import no_room_for_pictures_told, out_of_memory_told
from danceopd.training.metrics import MetricsFile, describe_update
from danceopd.training.optimizers import find_optimizer
from danceopd.training.plan import SlotPlan, plan_of
from danceopd.training.progress import ProgressReport
from danceopd.training.provenance import Sources
from danceopd.training.rehearsal import WIDTH, Rehearsal, width_of
from danceopd.training.report import RunReport
from danceopd.training.result import TrainResult
from danceopd.training.routes import asked_teachers, find_grids, name_routes, read_rows
from danceopd.training.run_folder import (
    CACHE,
    CHECKPOINTS,
    CONFIG,
    METRICS,
    PROCESSES,
    check_folder_writable,
    forget_what_never_began,
    open_folder,
)
from danceopd.training.schedule import learning_rate
from danceopd.training.seeding import seeded
from danceopd.training.sharding import sharded_models
from danceopd.training.start import Start, find_start, note_changes, tell_start
from danceopd.training.teachers import Fields
from danceopd.training.trackers import Trackers
from danceopd.training.weights import RunningMean, TrainedWeights

_INITIAL_VALUES, _UPDATE, _REHEARSAL = 0, 1, 2  # places in the run that torch's generators are seeded for


class DanceOPDTrainer:
    """Distils frozen fields into one student (DanceOPD, arXiv 2606.27377).

    Everything a run can get wrong in its settings is checked here, before a file is written.

    Args:
        family: the model family, see `danceopd.load_family`.
        teachers: the frozen fields, each with its own name.
        routes: which teacher is asked on which data.
        config: the numbers of the run. A `RunConfig` does as well; its own teachers and routes do not count.
        data: the rows of each route where `read_rows` has read them before; read here when None.
        callbacks: what else watches the run, beside progress and whatever the config asks for; on rank 0.

    Attributes:
        field: the student as it is trained, under its guidance scale.
        asked: the teachers that some route asks; `teachers` are their fields, in this order. Others are known
            but never loaded. A field that is put in the place of one of them before `train` is told in the
            run's folder as one of unknown contents; better is ``Teacher(name, field=..., identity=...)``.
        rollout_batch_size: samples of a forward of the rollout at most, None for all; where it is measured,
            from the start of `train` on.
        ranks: the processes that share the run. Each makes a trainer of the same settings and calls the same
            methods; rank 0 alone writes.

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
        check_folder_writable(Path(config.output_dir))
        self.family = family
        self.ranks = Ranks(family.device)
        self.config = config
        self.output_dir = Path(config.output_dir)
        self.route_names = name_routes(routes)
        self.method = config.method
        self.asked = asked_teachers(teachers, routes, self.method)
        self.data = read_rows(family, routes) if data is None else list(data)
        if self.method.needs_targets:
            check_targets(self.data)
        if config.unedited_weight is not None:
            check_masks(self.data)
        grid_of = find_grids(family, routes, self.data, config.num_rollout_steps)
        # A method without teachers still counts the routes' names: it learns from data grouped by them.
        names = [teacher.name for teacher in self.asked] or list(dict.fromkeys(r.teacher for r in routes))
        self.teacher_of_route = [names.index(route.teacher) for route in routes]
        own: list[Callback] = [ProgressReport(), RunReport()]
        if config.report_to:
            own.append(Trackers(config.report_to))
        if config.validation is not None:
            own.append(Grids(config.validation, family))
        self.callbacks = Callbacks([*own, *callbacks] if self.ranks.is_first else [])
        find_optimizer(config)  # what is not installed is told before models are read
        rows = dict(zip(self.route_names, self.data, strict=True))
        self.sources = Sources(family, config.student, teachers, self.asked, rows)
        sharded = sharded_models(config, family, self.ranks, self.asked)
        with seeded(config.seed, _INITIAL_VALUES, device=family.device), sharded:
            self.student = family.student(config.student, teachers)
            self._fields = Fields(family, self.asked)
        self.teachers = list(self._fields.made)
        field = compile_fields(config.compile, self.student.field, self.teachers, family.device)
        self.weights = TrainedWeights(self.student.module, config)
        self.mean = RunningMean(self.weights.masters, config.ema_decay) if config.ema_decay else None
        self.field = family.guided(field, config.student_guidance_scale)
        self.rollout_batch_size = None if config.rollout_batch_size == "auto" else config.rollout_batch_size
        sizes = [len(rows) for rows in self.data]
        self.plan = plan_of(config, [route.weight for route in routes], sizes, self.ranks.size, grid_of)
        dtype = next(self.student.module.parameters()).dtype
        # With several processes each has a device of its own.
        device = str(family.device) if self.ranks.size == 1 else family.device.type
        self.run = describe_run(config, family, teachers, routes, dtype, device)
        self.made_of: Mapping[str, Any] = {}
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
        self._describe_teachers()
        return self._find_start(resume).checkpoint

    def _describe_teachers(self) -> None:
        """Note fields that were put in the place of a teacher's own."""
        self.asked = self._fields.described(self.teachers)
        self.sources.describe(self.asked)
        asked = {teacher.name: teacher for teacher in self.asked}
        teachers = [asked.get(teacher.name, teacher) for teacher in self.run.teachers]
        self.run = replace(self.run, teachers=teachers)

    def _find_start(self, resume: bool | str | Path) -> Start:
        return find_start(
            self.output_dir, self._settings(), resume, lambda: self.sources.content(self.output_dir)
        )

    def train(self, resume: bool | str | Path = True) -> TrainResult:
        """Train to ``max_steps``; SIGINT or SIGTERM save a checkpoint and end the run between updates.

        Args:
            resume: True continues the newest whole checkpoint that ``output_dir`` holds, or starts a run;
                False insists on a new run; a path names the checkpoint folder to continue from, which may be
                done with another learning rate (its schedule, ``max_steps``) and ``max_grad_norm``.

        Raises:
            ConfigError: if ``output_dir`` holds another run, or one of other files or rows, is in use, or
                cannot be written.
            CheckpointError: if the checkpoint named is damaged, or all in ``output_dir`` are.
            OSError: if the disk is full; the checkpoints before that stay.
            OutOfMemoryError: if an update or a picture finds no room; it names the settings to change.
            ConfigError: also if blocks cannot be compiled, or forwards not be recorded.
            DivergedError: if a loss or gradient is not finite. As after any error, the state before that
                update is saved.
            RankError: if another process of the run has failed, is gone, or holds other weights.
            Interrupted: a KeyboardInterrupt, if a signal came before the first update.
        """
        self._describe_teachers()
        if not self.output_dir.exists():
            self.find_start(resume)  # a bad `resume` must not leave a folder behind
        with ExitStack() as stack:
            again = "so no update is lost; start the same training again"
            with stopping_at_once(f"stopped before training began, {again}."):
                start = self._open(stack, resume)
            with stopping_at_once(f"stopped while rows were encoded, {again}, which encodes the rest."):
                self.prepare()
            metrics = self._open_metrics(stack, start)
            stack.enter_context(self.ranks.ending_together())
            stack.enter_context(compile_failures_told(self.config.compile))
            with stopping_at_once(f"stopped before training began, {again}."):
                self._rehearse(start)
            stop = stack.enter_context(GracefulStop())
            stack.enter_context(self.callbacks.watching())
            with self.ranks.together(patient=True), no_room_for_pictures_told(self.run, self.step):
                self.callbacks.on_start(self)
            stopped_by = self._loop(metrics, stop)
            done = self.step == self.config.max_steps
            export = partial(export_whole, self.output_dir, self._export)
            exported = self.ranks.first(export) if done else None
            result = TrainResult(self.step, self.output_dir, exported, None if done else stopped_by)
            with self.ranks.together(patient=True), no_room_for_pictures_told(self.run, self.step):
                self.callbacks.on_end(result)
        return result

    def prepare(self) -> None:
        """Encode the rows of all routes, once; `train` does it where it was not done.

        Rank 0 does it first, so that the others find what it has encoded where they share its folder.
        """
        if not self.prepared:
            folder = Path(self.config.cache_dir or self.output_dir / CACHE)
            targets, masks = self.method.needs_targets, self.config.unedited_weight is not None
            encode = partial(self.family.prepare, self.data, folder, targets=targets, masks=masks)
            self.prepared = self.ranks.in_turn(encode)

    def _open(self, stack: ExitStack, resume: bool | str | Path) -> Start:
        """Lock the folder, and bring every rank to where the run starts."""
        start = Start(None)
        with self.ranks.together(patient=True):
            if self.ranks.is_first:
                stack.enter_context(open_folder(self.output_dir))
                # Under the lock: another process may have trained here a moment ago.
                start = self._find_start(resume)
        path = self.ranks.gather(start.path)[0]
        with self.ranks.together(patient=True):
            if path is not None:
                self._restore(start.checkpoint or load_checkpoint(path))
            elif self.step or not self._between_updates:
                raise ConfigError(
                    "this trainer has trained already and its checkpoints are gone: make a new trainer."
                )
            if self.ranks.is_first:
                forget_what_never_began(self.output_dir)
                write_config(self.run, self.output_dir / CONFIG)
                self.made_of = note_changes(start, self.sources.write(self.output_dir, self.family.device))
        self.ranks.broadcast(self.weights.masters)
        self.weights.publish()
        self.ranks.check_same(dict(self.student.module.named_parameters()), "the student")
        return start

    def _rehearse(self, start: Start) -> None:
        """Choose the rollout's width, unless the run has one already, and compile what updates will call."""
        if self.step == self.config.max_steps:
            return
        rehearsal = Rehearsal(self.family, self.prepared, self.teacher_of_route, self.plan, self.config)
        known = self.ranks.gather(width_of(start.checkpoint))[0]
        is_auto, found = self.config.rollout_batch_size == "auto", 1
        with (
            self.ranks.together(),
            out_of_memory_told(self.run, self.step + 1),
            seeded(self.config.seed, _REHEARSAL, device=self.family.device),
        ):
            if self.config.compile != "none":
                if self.config.progress and self.ranks.is_first:
                    tell_compiling()
                # First: compiled code may hang on the calls before it, and a continued run measures nothing.
                rehearsal.update(self.field, self._teachers())
                self.weights.discard_gradients()
            if is_auto:
                # Another width would round otherwise, so that a run keeps the one that it has begun with.
                found = known or rehearsal.width(self.field, self.weights.bytes_to_come(), self.ranks.size)
        if is_auto:
            self.rollout_batch_size = -self.ranks.largest(-found)
            self.made_of = {**self.made_of, WIDTH: self.rollout_batch_size}

    def _open_metrics(self, stack: ExitStack, start: Start) -> MetricsFile | None:
        """The file that metrics go to; None on a rank that writes nothing."""
        metrics = None
        with self.ranks.together(patient=True):
            if self.ranks.is_first:
                tell_start(start, self.made_of)
                prune_checkpoints(self.output_dir / CHECKPOINTS, self.config.keep_checkpoints)
                metrics = stack.enter_context(MetricsFile(self.output_dir / METRICS, self.step))
        return metrics

    def _loop(self, metrics: MetricsFile | None, stop: GracefulStop) -> int | None:
        """Update until the end or a signal to any rank, and return that one."""
        config, signal = self.config, None
        try:
            while self.step < config.max_steps and not (signal := self.ranks.largest(stop.signal or 0)):
                line = self._one_update()
                # First, so that a disk without room for the line does not cost the weights.
                self.step, self._between_updates = line["step"], True
                with self.ranks.together(), no_room_for_pictures_told(self.run, self.step):
                    if metrics is not None and self.step % config.log_every == 0:
                        metrics.append(line)
                    self.callbacks.on_update(line)
                if self.step % config.save_every == 0:
                    self._save(metrics)
            if self._saved_step != self.step:
                self._save(metrics)
        except BaseException:
            # The weights are those of the last whole update, maybe hours of work.
            if metrics is not None and self._between_updates and self._saved_step != self.step:
                self._write_checkpoint(metrics)
            raise
        return signal or None

    def _one_update(self) -> dict[str, Any]:
        began, step = time.perf_counter(), self.step
        with self.ranks.together(), out_of_memory_told(self.run, step + 1):
            self.weights.discard_gradients()  # an update that failed half way may have left some
            own_place = [self.ranks.rank] if self.ranks.rank else []  # dropout is to differ between ranks
            with seeded(self.config.seed, _UPDATE, step, *own_place, device=self.family.device):
                slots = [self.plan.step(step, rank) for rank in range(self.ranks.size)]
                result = self._gradient(slots[self.ranks.rank])
        result = self.ranks.gather_result(result)
        with out_of_memory_told(self.run, step + 1):
            self.ranks.sum_gradients(self.weights.masters)
            rate, norm = learning_rate(step, self.config), self.weights.clip(self.config.max_grad_norm)
            line = {**self._describe_update(sum(slots, ()), result), "grad_norm": norm, "learning_rate": rate}
            check_finite(line, self.config)
            self._between_updates = False
            self.weights.step(rate)
            if self.mean is not None:
                self.mean.update(self.weights.masters, step)
        seconds = time.perf_counter() - began
        return {**line, "time": {"seconds": seconds, "samples_per_second": self.plan.slots / seconds}}

    def _gradient(self, slots: Sequence[SlotPlan]) -> UpdateResult:
        """Add the gradient of the update's mean loss, one shape of latents after the other."""
        config = self.config
        batches = build_batches(
            slots,
            self.family,
            self.prepared,
            self.teacher_of_route,
            config.num_rollout_steps,
            needs_targets=self.method.needs_targets,
            unedited_weight=config.unedited_weight,
        )
        limits = Limits(config.batch_size, self.rollout_batch_size, self.plan.slots, config.rollout_solver)
        results = [
            (part.slots, self.method.update(self.field, self._teachers(), part.batch, part.grid, limits))
            for part in batches
        ]
        return in_order_of_slots(results)

    def _teachers(self) -> Teachers:
        return {teacher.name: field for teacher, field in zip(self.asked, self.teachers, strict=True)}

    def _describe_update(self, slots: Sequence[SlotPlan], result: UpdateResult) -> dict[str, Any]:
        return {
            "step": self.step + 1,
            **describe_update([self.route_names[slot.route] for slot in slots], result),
        }

    def _save(self, metrics: MetricsFile | None) -> None:
        """Write a checkpoint of what all ranks agree upon."""
        trained = {**self.weights.masters, **self.weights.optimizer_tensors()}
        try:
            self.ranks.check_same(trained, "the trained student")
        except RanksDifferError:
            self._saved_step = self.step  # what they do not agree upon is not to be saved on the way out
            raise
        with self.ranks.together():
            if metrics is not None:
                self._write_checkpoint(metrics)
                prune_checkpoints(self.output_dir / CHECKPOINTS, self.config.keep_checkpoints)
        self._saved_step = self.step  # on the other ranks too

    def _write_checkpoint(self, metrics: MetricsFile) -> None:
        # Noted before it is done, so that a full disk is reported once and not tried again on the way out.
        self._saved_step = self.step
        checkpoint = Checkpoint(
            step=self.step,
            student=self.weights.masters,
            optimizer=self.weights.optimizer_tensors(),
            ema=self.mean.mean if self.mean else None,
            run=self._settings(),
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

    def _settings(self) -> dict[str, Any]:
        """What makes the run this one: other rows, or more of them at once, draw other samples."""
        return {
            **as_mapping(self.run),
            "rows": list(self.plan.route_sizes),
            PROCESSES: self.ranks.size,
        }
