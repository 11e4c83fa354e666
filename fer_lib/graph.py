"""A training step recorded once as a CUDA graph and replayed: one launch in place of hundreds.

A small network leaves a GPU idle while Python starts its kernels one by one. What a replay does is
what the recorded step did, kernel by kernel, with the next random numbers, the images and targets
that were copied to where it reads them, and the learning rates of the moment.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from fer_lib.config import TrainConfig
from fer_lib.device import processes
from fer_lib.files import first_line

WARM_UP = 3
"""Steps that run as they are before one is recorded: libraries choose and allocate in them."""

Step = Callable[[Tensor, Tensor], dict[str, Tensor]]


def static_shapes(model: nn.Module) -> bool:
    """Whether all shapes in a model are known before the device has computed anything."""
    return all(getattr(module, "static_shapes", True) for module in model.modules())


def recordable(config: TrainConfig, model: nn.Module, precision: str) -> bool:
    """Whether a training step of a model can be recorded on this device, and is to be."""
    here = processes()
    return (
        config.may_record
        and here.device.type == "cuda"
        and here.num_processes == 1
        and precision != "fp16"  # whose scaler looks at the gradients
        and static_shapes(model)
    )


class RecordedStep:
    """Does what a step on a batch does; from the fourth call on by replaying a recording of it.

    Args:
        optimizer: that the step steps, of torch and fused; its learning rates, Python numbers, may
            change between calls.
        generator: of the device, from which the step draws besides torch's own.

    Calling it with the step, images (B, C, H, W) uint8 and targets (B, K) float32, all on the
    device, returns what the step returns; the next call overwrites that. It is always the same
    step, of images and targets of the same shapes. It waits for nothing on the device, copies
    nothing there, and none of its shapes depends on a value there.

    Raises:
        RuntimeError: the step cannot be recorded.
    """

    def __init__(self, optimizer: Optimizer, generator: Generator):
        self.optimizer, self.generator = optimizer, generator
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()
        self.calls = 0

    def __call__(self, step: Step, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The step on a batch; what it returned."""
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.beside(step, images, targets)
        if self.graph is None:
            self.record(step, images, targets)
        self.images.copy_(images)
        self.targets.copy_(targets)
        # From ordinary memory: it is read before the call returns, whenever the copy is done.
        self.rates.copy_(torch.tensor(self.current_rates()), non_blocking=True)
        self.graph.replay()
        return self.result

    def current_rates(self) -> list[float]:
        """The learning rates of the optimizer's groups."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def beside(self, step: Step, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The step on a stream of its own, as a recording wants it to have been before."""
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            result = step(images, targets)
        here.wait_stream(self.stream)
        return result

    def record(self, step: Step, images: Tensor, targets: Tensor) -> None:
        """Record a step, without doing it."""
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
            while first.__context__:  # the last one only says that an earlier one ended it
                first = first.__context__
            raise RuntimeError(
                "a training step could not be recorded as a CUDA graph "
                f"({first_line(first)}): train with cuda_graph=false, in a new process"
            ) from error
        finally:
            for group, plain in zip(groups, before, strict=True):
                group |= plain
