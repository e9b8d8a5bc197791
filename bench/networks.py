"""The networks' own costs: the layout of feature maps, and gradient checkpointing.

    python bench/networks.py [--scenario layout|checkpointing|all] [--runs 5]

layout         CPU time of a ResNet's forward pass and training step with channels last, and without
checkpointing  memory kept for the backward pass and CPU time of a step, with checkpointing and without

One thread; the sides take turns; CPU time is the process's own, medians of the runs.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from clipkit.model.clip import Clip, build
from clipkit.model.config import named_config
from clipkit.model.memory_layout import fast_layout
from clipkit.train.optimizer import AdamSettings, make_optimizer

Pair = tuple[Callable[[], object], Callable[[], object]]


def batch(clip: Clip, samples: int) -> tuple[Tensor, Tensor]:
    """Seeded pictures and texts of 12 tokens, as captions have."""
    generator = torch.Generator().manual_seed(0)
    size, text = clip.config.image_size, clip.config.text
    images_BCHW = torch.randn(samples, 3, size, size, generator=generator)
    tokens_BL = torch.zeros(samples, text.context_length, dtype=torch.int64)
    tokens_BL[:, :11] = torch.randint(1, text.vocab_size - 2, (samples, 11), generator=generator)
    tokens_BL[:, 11] = text.vocab_size - 1
    return images_BCHW, tokens_BL


def training(clip: Clip, samples: int, optimizer: torch.optim.Optimizer | None = None) -> Callable[[], float]:
    """A step: forward, loss, backward, AdamW; it returns the loss."""
    clip.train()
    device = clip.logit_scale.device
    images_BCHW, tokens_BL = (each.to(device) for each in batch(clip, samples))
    classes_B = torch.arange(samples, device=device)
    optimizer = optimizer or make_optimizer(clip, AdamSettings((0.9, 0.98), 1e-6, 0.2))

    def step() -> float:
        loss = functional.cross_entropy(clip(images_BCHW, tokens_BL)[0], classes_B)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step


def forward(clip: Clip, samples: int) -> Callable[[], Tensor]:
    """The image tower's features without a gradient."""
    clip.eval()
    images_BCHW, _ = batch(clip, samples)

    def run() -> Tensor:
        with torch.inference_mode():
            return clip.encode_image(images_BCHW)

    return run


def cpu_times(pair: Pair, runs: int) -> tuple[list[float], list[float]]:
    """CPU seconds of both sides in turn, after one of each to warm up."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(runs + 1):
        for side, found in zip(pair, times, strict=True):
            begun = time.process_time()
            side()
            if number:
                found.append(time.process_time() - begun)
    return times


def row(name: str, pair: Pair, runs: int) -> str:
    plain, fast = cpu_times(pair, runs)
    ratio = statistics.median(b / a for a, b in zip(plain, fast, strict=True))
    seconds = f"{statistics.median(plain):.3f} s | {statistics.median(fast):.3f} s"
    return f"| {name} | {seconds} | × {ratio:.2f} |"


def layout(runs: int) -> None:
    print("| CPU time | channels first | channels last | ratio |\n|---|---|---|---|")
    for name, kind, work, samples in (
        ("RN50", "forward", forward, 8),
        ("RN50", "training step", training, 8),
        ("RN-Mini@64px", "forward", forward, 128),
        ("RN-Mini@64px", "training step", training, 128),
    ):
        clips = [build(named_config(name), seed=0) for _ in range(2)]
        pair: Pair = (work(clips[0], samples), work(fast_layout(clips[1]), samples))
        print(row(f"{name}, {samples} pictures, {kind}", pair, runs), flush=True)


def kept_bytes(clip: Clip, samples: int) -> int:
    """Bytes that the graph holds between forward and backward, weights left out."""
    weights = {each.untyped_storage().data_ptr() for each in clip.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = clip.train()(*batch(clip, samples))
    held = {place: each.untyped_storage().nbytes() for place, each in kept.items() if place not in weights}
    del output
    return sum(held.values())


def checkpointing(runs: int) -> None:
    print("| kept | everything | inputs of blocks | CPU: everything | inputs of blocks | ratio |")
    print("|---|---|---|---|---|---|")
    for name, samples in (("RN50", 8), ("ViT-B/32", 8), ("RN-Mini@64px", 128)):
        clips = [fast_layout(build(named_config(name), seed=0)) for _ in range(2)]
        clips[1].set_gradient_checkpointing(True)
        held = " | ".join(f"{kept_bytes(clip, samples) / 1e6:,.0f} MB" for clip in clips)
        pair: Pair = (training(clips[0], samples), training(clips[1], samples))
        print(row(f"{name}, {samples} samples | {held}", pair, runs), flush=True)


SCENARIOS = {each.__name__: each for each in (layout, checkpointing)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="all")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, scenario in SCENARIOS.items():
        if options.scenario in (name, "all"):
            print(f"### {name}\n", flush=True)
            scenario(options.runs)
            print(flush=True)


if __name__ == "__main__":
    main()
