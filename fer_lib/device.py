"""The device, the processes on it, and how it computes: memory, attention, precision."""

import ctypes
import os
from contextlib import suppress

import torch
from accelerate import PartialState
from torch import nn

from fer_lib.files import InputError


def processes() -> PartialState:
    """This process among those of its launch, on CUDA's GPUs if there are any, else on the CPU.

    Apple's GPUs are left alone: they lack some of what augmentation needs.

    Raises:
        InputError: `accelerate launch --cpu` was asked for several processes. Without MPI it
            starts a single one, and says nothing.
    """
    env = os.environ
    launched = env.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in env
    if launched and not {"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"} & set(env):
        raise InputError(
            "accelerate launch --cpu starts only one process without MPI: use torchrun "
            "--nproc_per_node 2 -m fer_lib.train …, or add --mpirun_hostfile FILE"
        )
    return PartialState(cpu=not torch.cuda.is_available())


def keep_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next step (Linux, CPU).

    It would return every large one to the kernel and fault it in again page by page, which takes a
    third of the time of training, and of prediction in large batches.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # M_MMAP_THRESHOLD, bytes: older versions take no more than 32 MiB.
        if mallopt(-3, 2**30) or mallopt(-3, 2**25):
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def plain_attention(model: nn.Module) -> None:
    """Let timm's attention multiply matrices itself, where the fused kernel is the slower one.

    That is so for bf16 on CPUs: with it, a training step of vit_patch and vit_cnn takes nearly
    twice as long (benchmarks/attention.py).
    """
    for module in model.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False


def choose_precision(precision: str = "auto") -> str:
    """Resolve "auto": bf16 where the device multiplies in it, else fp16 on a GPU, else float32.

    Older GPUs (Colab's T4) and CPUs only emulate bf16, which is slower than float32.

    Raises:
        InputError: fp16 is asked of a CPU, on which accelerate would train in float32 instead.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise InputError("precision=fp16 needs a GPU: use auto, bf16 or no on a CPU")
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"
