"""Record a training step once as a CUDA graph and replay it: one launch instead of hundreds.

A small network leaves a GPU idle while Python starts its kernels one by one. A replay runs the
kernels of the recorded step again, with the next random numbers, with the images and targets that
were copied to where the step reads them, and with the current learning rates.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from fer_lib.config import TrainConfig
from fer_lib.device import processes
from fer_lib.files import InputError, first_line

WARM_UP = 3
"""Steps that run normally before one is recorded: in them, libraries choose their algorithms and
allocate memory."""

Step = Callable[[Tensor, Tensor], dict[str, Tensor]]


def static_shapes(model: nn.Module) -> bool:
    """Return whether all shapes in a model are known before the device computes anything."""
    return all(getattr(module, "static_shapes", True) for module in model.modules())


def recordable(config: TrainConfig, model: nn.Module, precision: str) -> bool:
    """Return whether the steps of a training can be recorded on this device, and are to be."""
    here = processes()
    return (
        config.may_record
        and here.device.type == "cuda"
        and here.num_processes == 1
        and precision != "fp16"  # not tried with its scaler
        and static_shapes(model)
    )


class RecordedStep:
    """A training step that runs normally in the first three calls, and as a recording after that.

    Call it with the step, images (B, C, H, W) uint8 and targets (B, K) float32, all on the device.
    It returns what the step returns; the next call overwrites this result. All calls must have the
    same step and the same shapes. The step must not wait for the device or copy anything to it, and
    none of its shapes may depend on a value on the device.

    Args:
        optimizer: the optimizer that the step uses, a fused one of torch. Its learning rates are
            Python numbers and may change between calls.
        generator: a generator of the device, from which the step draws besides torch's own.

    Raises:
        InputError: the step cannot be recorded.
        torch.OutOfMemoryError: the GPU has too little free memory for it.
    """

    def __init__(self, optimizer: Optimizer, generator: Generator):
        self.optimizer, self.generator = optimizer, generator
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()
        self.calls = 0

    def __call__(self, step: Step, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Run the step on a batch, or replay it, and return its result."""
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.beside(step, images, targets)
        if self.graph is None:
            self.record(step, images, targets)
        self.images.copy_(images)
        self.targets.copy_(targets)
        # Ordinary memory is read before this call returns, even if the copy is done later.
        self.rates.copy_(torch.tensor(self.current_rates()), non_blocking=True)
        self.graph.replay()
        return self.result

    def current_rates(self) -> list[float]:
        """Return the learning rates of the optimizer's parameter groups."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def beside(self, step: Step, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Run the step on a separate stream, which must happen before it is recorded."""
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            result = step(images, targets)
        here.wait_stream(self.stream)
        return result

    def record(self, step: Step, images: Tensor, targets: Tensor) -> None:
        """Record the step without running it."""
        self.images, self.targets = images.clone(), targets.clone()
        self.rates = torch.tensor(self.current_rates(), device=images.device)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        groups = self.optimizer.param_groups
        before = [dict(group) for group in groups]
        try:
            for group, rate in zip(groups, self.rates, strict=True):
                group |= {"lr": rate, "capturable": True}  # the rate is read at every replay
            with torch.cuda.graph(self.graph):
                self.result = step(self.images, self.targets)
        except RuntimeError as error:
            self.graph, first = None, error
            # The last error only says that an earlier one ended the recording.
            while first.__context__:
                first = first.__context__
            if isinstance(first, torch.OutOfMemoryError):
                raise first from None
            raise InputError(
                "a training step could not be recorded as a CUDA graph "
                f"({first_line(first)}): train with cuda_graph=false, in a new process"
            ) from error
        finally:
            for group, plain in zip(groups, before, strict=True):
                group |= plain
