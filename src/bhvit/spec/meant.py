"""Names that other tools use for settings, and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable

_RENAMED = {
    ours: theirs.split()
    for ours, theirs in {
        "augment": "aa auto_augment augmentation",
        "batch_size": "b batch bs per_device_train_batch_size",
        "cache_mb": "cache",
        "channels": "in_chans in_channels",
        "clip_grad": "grad_clip max_grad_norm",
        "crop": "crop_pct",
        "data": "data_dir data_path dataset train_dir",
        "drop_path": "dropout drop drop_rate drop_path_rate stochastic_depth",
        "ema": "model_ema ema_decay",
        "epochs": "num_epochs n_epochs max_epochs num_train_epochs",
        "erase": "reprob random_erasing",
        "img_size": "image_size imgsz input_size size",
        "label_smoothing": "smoothing",
        "layer_decay": "lr_decay layer_wise_lr_decay",
        "lr": "learning_rate base_lr lr0 rate",
        "model": "arch architecture model_name backbone",
        "opt": "optimizer optimiser optim",
        "opt_betas": "betas adam_betas",
        "opt_eps": "eps adam_epsilon",
        "out": "output output_dir out_dir save_dir run_dir project",
        "patch": "patch_size",
        "precision": "amp fp16 bf16 half dtype",
        "sched": "scheduler lr_scheduler schedule lr_scheduler_type",
        "teacher": "distill distillation_teacher teacher_model",
        "test_fraction": "val_split validation_split val_fraction split",
        "threads": "num_threads cpus",
        "warmup_epochs": "warmup",
        "weight_decay": "wd decay",
        "workers": "num_workers j",
    }.items()
}
_MEANT: dict[str, str] = {name: ours for ours, names in _RENAMED.items() for name in names}
_EXPLAINED: dict[str, str] = {
    **dict.fromkeys(
        ("gpus", "num_gpus", "n_gpus", "gpu", "devices", "nproc_per_node", "processes"),
        "{device} chooses one (cuda:1); `bhvit train --processes 2 …` uses several",
    ),
    **dict.fromkeys(
        ("pretrained", "weights", "checkpoint", "finetune", "load", "ckpt"),
        "{init} starts from the weights of a checkpoint, or of the bundled model cifar10",
    ),
    "num_classes": "the classes are those of the data",
}


def renamed(name: str) -> str | None:
    """Return our setting for the `name` that other tools use; None without one."""
    return _MEANT.get(_plain(name))


def _plain(name: str) -> str:
    return name.lstrip("-").lower().replace("-", "_")


def meant(name: str, spell: Callable[[str], str], taken: Iterable[str] = ()) -> str | None:
    """Suggest our setting for the `name` that other tools use; None without one.

    The text follows "there is no …" in a message.

    `spell` writes the name of a setting as the caller's users give it. Names in `taken` mean something here.
    """
    plain = _plain(name)
    if plain in taken:
        return None
    if plain in _MEANT:
        return f"; did you mean {spell(_MEANT[plain])}?"
    if plain in _EXPLAINED:
        return f"; {_EXPLAINED[plain].format(device=spell('device'), init=spell('init'))}"
    return None
