"""The device, the processes on it, and how it computes: memory, attention, precision."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from accelerate import PartialState
from torch import nn

from fer_lib.files import InputError, first_line


def processes() -> PartialState:
    """Return accelerate's `PartialState`: this process's rank, how many there are, and the device.

    The device is a CUDA GPU if there is one, else the CPU. Apple's GPUs are not used, as they lack
    some of what augmentation needs.

    Raises:
        InputError: there are more processes than GPUs.
    """
    wanted, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if torch.cuda.is_available() and wanted > gpus:
        raise InputError(
            f"{wanted} processes need {wanted} GPUs, and {gpus} are here: lower "
            "--nproc_per_node or --num_processes, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    return PartialState(cpu=not torch.cuda.is_available())


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device that is asked for; if it is None, a CUDA GPU if there is one, else the CPU.

    Raises:
        InputError: a CUDA GPU is asked for, and there is none that PyTorch can use.
    """
    gpu = torch.cuda.is_available()
    device = torch.device(device or ("cuda" if gpu else "cpu"))
    if device.type == "cuda" and not gpu:
        raise InputError(
            "PyTorch finds no GPU for the device cuda: use cpu, or see README.md, Troubleshooting"
        )
    return device


OTHERS = "end other programs on it, and notebooks that are open (their kernels)"
"""What gives a program more memory of a GPU."""


@contextmanager
def enough_memory(what: str, remedy: str) -> Iterator[None]:
    """Raise InputError, with the remedy, if what is done in the block does not fit on the GPU."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{what}: the GPU has too little free memory ({first_line(error)}): {remedy}"
        ) from error


def keep_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next step (Linux, CPU).

    By default, it returns every large block to the kernel and faults it in again page by page,
    which takes a third of the time of training, and of prediction in large batches.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # M_MMAP_THRESHOLD, bytes: older versions accept at most 32 MiB.
        if mallopt(-3, 2**30) or mallopt(-3, 2**25):
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def free_memory(device: torch.device) -> None:
    """Free what an earlier training in this process still holds on a GPU.

    In mixed precision, accelerate makes a model refer to itself: its weights stay on the device
    until such reference cycles are collected.
    """
    if device.type == "cuda":
        gc.collect()


def plain_attention(model: nn.Module) -> None:
    """Make timm's attention layers multiply matrices themselves, without the fused kernel.

    The fused kernel is slower for bf16 on CPUs: with it, a training step of vit_patch and vit_cnn
    takes nearly twice as long (benchmarks/attention.py).
    """
    for module in model.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False


def choose_precision(precision: str = "auto") -> str:
    """Return the precision to compute in: "bf16", "fp16" or "no" (float32).

    "auto" is bf16 if the device multiplies in it, else fp16 on a GPU and float32 on a CPU. Older
    GPUs (Colab's T4) and CPUs only emulate bf16, which is slower than float32.

    Raises:
        InputError: fp16 is asked for on a CPU, where accelerate would train in float32 instead.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise InputError("precision=fp16 needs a GPU: use auto, bf16 or no on a CPU")
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"
