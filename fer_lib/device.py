"""The device, the processes on it, and how it computes: memory, attention, precision."""

import ctypes
from contextlib import suppress

import torch
from accelerate import PartialState
from torch import nn

from fer_lib.files import InputError


def processes() -> PartialState:
    """Return accelerate's `PartialState`: this process's rank, how many there are, and the device.

    The device is a CUDA GPU if there is one, else the CPU. Apple's GPUs are not used, as they lack
    some of what augmentation needs.
    """
    return PartialState(cpu=not torch.cuda.is_available())


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
