"""Whether disk and memory hold the run, from sizes alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from danceopd.families import Footprint
from danceopd.settings import ConfigError
from danceopd.training.check.probe import cache_folder, folder_bytes
from danceopd.training.check.report import Resources, bytes_text
from danceopd.training.config import TrainConfig
from danceopd.training.distributed import num_processes
from danceopd.training.measuring import free_memory
from danceopd.training.run_folder import CHECKPOINTS

_FP32 = 4


def check_resources(footprint: Footprint, config: TrainConfig, device: torch.device) -> Resources:
    """What is needed at the least beside what is there; the cache is not known yet.

    Raises:
        ConfigError: the disk of output_dir, or the device's memory, is certainly too small.
    """
    folder = Path(config.output_dir)
    moments = 2 * (1 if config.optimizer == "adamw8bit" else _FP32)
    every = footprint.trained * (_FP32 + moments + (_FP32 if config.ema_decay else 0))
    kept = min(config.keep_checkpoints + 1, -(-config.max_steps // config.save_every))
    checkpoints = every * kept + footprint.trained * _FP32
    free = free_disk(folder)
    missing = checkpoints - folder_bytes(folder / CHECKPOINTS)
    if missing > free:
        raise ConfigError(
            f"output_dir '{folder}' needs {bytes_text(missing)} for {kept} checkpoints of "
            f"{bytes_text(every)} and the student, but has {bytes_text(free)} free: free space, lower "
            "keep_checkpoints, or name another folder."
        )
    masters = 1 if config_trains_copies(config) else 0
    shares = 1 if config.sharding == "none" else num_processes()
    weights = footprint.weights // shares + every + footprint.trained * _FP32 * masters
    memory = free_memory(device)
    if weights > memory:
        raise ConfigError(
            f"the models and the optimizer of this run take {bytes_text(weights)} at least, but device "
            f"'{device}' has {bytes_text(memory)} free: train a LoRA, use dtype bfloat16, or offload or "
            "quantise teachers with checkpoints of their own, or spread the weights over several GPUs with "
            "sharding."
        )
    if footprint.elsewhere > (ram := free_memory(torch.device("cpu"))):
        raise ConfigError(
            f"the offloaded teachers take {bytes_text(footprint.elsewhere)}, but {bytes_text(ram)} of memory "
            "are free: quantise them, or use fewer."
        )
    return Resources(
        checkpoints=checkpoints,
        cache=0,
        free_disk=free,
        free_cache_disk=free_disk(cache_folder(config)),
        weights=weights,
        encoders=footprint.encoders,
        free_memory=memory,
        device=str(device),
    )


def check_cache(resources: Resources, config: TrainConfig, needed: int) -> None:
    """Raise ConfigError where the encoded rows find no place, together with the checkpoints if need be."""
    folder = cache_folder(config)
    shared = _device_of(folder) == _device_of(Path(config.output_dir))
    wanted = needed + (resources.checkpoints if shared else 0)
    if needed and wanted > resources.free_cache_disk:
        beside = " beside the checkpoints" if shared else ""
        raise ConfigError(
            f"the cache '{folder}' needs about {bytes_text(needed)} for encoded rows{beside}, but has "
            f"{bytes_text(resources.free_cache_disk)} free: free space, or set cache_dir to another disk."
        )


def free_disk(folder: Path) -> int:
    """Bytes that can be written below a folder, which need not be there yet."""
    return shutil.disk_usage(_there(folder)).free


def config_trains_copies(config: TrainConfig) -> bool:
    """Whether what trains has fp32 masters beside the model's own parameters."""
    return getattr(config, "dtype", "float32") != "float32"


def _there(folder: Path) -> Path:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def _device_of(folder: Path) -> int:
    return _there(folder).stat().st_dev
