"""What surrounds a run whose networks go through torch.compile."""

from collections.abc import Iterator
from contextlib import contextmanager

from clipkit.errors import TrainError
from clipkit.train.config import TrainConfig
from clipkit.train.sync_batch_norm import keep_the_compiler_out


@contextmanager
def compiling(config: TrainConfig) -> Iterator[None]:
    """Set the compiler up if `config` wants one; what it cannot do comes out as one line of a TrainError."""
    if not config.compile:
        yield
        return
    import torch._dynamo  # seconds, that others need not wait

    keep_the_compiler_out()
    # Gradients are averaged in pieces while the backward pass goes on; not every version of PyTorch can cut
    # blocks that are computed again into such pieces.
    with torch._dynamo.config.patch(optimize_ddp=not config.grad_checkpointing):
        try:
            yield
        except torch._dynamo.exc.TorchDynamoException as error:
            found = str(error).partition("\n")[0]
            raise TrainError(f"--compile does not work here: {found}: mend that, or leave it out") from error
