"""Evaluations by the peers' own code, in their environment: `python peers.py WAY SPEC.json` prints JSON.

The specification has `name` and `config` of the model, `checkpoint`, `folder`, `names` of the classes in the
order of their folders, `templates` with {} for the name, `batch_size`, `workers`, and the files that a way
needs: `predictions` and `classifier` to write, `table` of pictures and captions to read. No clipkit here.
"""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Spec = dict[str, Any]


def opened(spec: Spec) -> tuple[Any, Any, Any]:
    """Model, transform and tokenizer, as `open_clip_train.main` makes them for an evaluation."""
    import open_clip

    open_clip.add_model_config(spec["config"])
    model, _, transform = open_clip.create_model_and_transforms(
        spec["name"], pretrained=spec["checkpoint"], output_dict=True
    )
    return model.eval(), transform, open_clip.get_tokenizer(spec["name"])


def settings(spec: Spec) -> SimpleNamespace:
    """The arguments of `open_clip_train` that its evaluation reads."""
    return SimpleNamespace(
        device="cpu",
        precision="fp32",
        batch_size=spec["batch_size"],
        workers=spec["workers"],
        imagenet_val=spec.get("folder"),
        zeroshot_frequency=1,
        val_frequency=1,
        epochs=1,
        rank=0,
        local_rank=0,
        world_size=1,
        distributed=False,
        horovod=False,
        model=spec["name"],
        val_data=spec.get("table"),
        csv_img_key="filepath",
        csv_caption_key="title",
        csv_separator=",",
        save_logs=False,
        wandb=False,
    )


def open_clip(spec: Spec) -> dict[str, float]:
    """The steps of `open_clip_train.zero_shot.zero_shot_eval`, with the names of the set."""
    from open_clip import build_zero_shot_classifier
    from open_clip_train.data import get_imagenet
    from open_clip_train.zero_shot import run

    model, transform, tokenizer = opened(spec)
    classifier = build_zero_shot_classifier(
        model,
        tokenizer=tokenizer,
        classnames=spec["names"],
        templates=spec["templates"],
        num_classes_per_batch=10,
        device="cpu",
        use_tqdm=True,
    )
    loader = get_imagenet(settings(spec), (None, transform), "val").dataloader
    print("images begin", flush=True)
    top1, top5 = run(model, classifier, loader, settings(spec))
    print("images end", flush=True)
    if spec.get("predictions"):
        with torch.inference_mode():
            logits = torch.cat(
                [model.encode_image(images, normalize=True) @ classifier for images, _ in loader]
            )
        _save(spec, loader.dataset.samples, logits)
    return {"top1": top1, "top5": top5}


def clip_benchmark(spec: Spec) -> dict[str, float]:
    """CLIP_benchmark's dataset, classifier, classification and measures, in float32."""
    from clip_benchmark.datasets.builder import build_dataset
    from clip_benchmark.metrics import zeroshot_classification as theirs

    name = "imagenet1k-unverified"  # an ImageFolder, below `val`
    model, transform, tokenizer = opened(spec)
    with TemporaryDirectory() as folder:
        files = [Path(folder) / "names.json", Path(folder) / "templates.json"]
        texts = spec["names"], [template.replace("{}", "{c}") for template in spec["templates"]]
        for file, text in zip(files, texts, strict=True):
            file.write_text(json.dumps({name: text}))
        dataset = build_dataset(
            name,
            root=str(Path(spec["folder"]).parent),
            transform=transform,
            custom_classname_file=str(files[0]),
            custom_template_file=str(files[1]),
        )
    loader = DataLoader(dataset, batch_size=spec["batch_size"], num_workers=spec["workers"])
    arguments = (tokenizer, dataset.classes, dataset.templates, "cpu")
    result = theirs.evaluate(model, loader, *arguments, amp=False)
    if spec.get("predictions"):
        classifier = theirs.zero_shot_classifier(model, *arguments, amp=False)
        logits, _ = theirs.run_classification(model, classifier, loader, "cpu", amp=False)
        _save(spec, dataset.samples, logits / 100)
    return dict(result)


def _save(spec: Spec, samples: list[tuple[str, int]], logits_KN: Tensor) -> None:
    """Of each picture its file, the nearest class, and how much nearer that is than the next (cosines)."""
    similarities, classes = (each.numpy() for each in logits_KN.topk(2))
    with Path(spec["predictions"]).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for (path, _), values, places in zip(samples, similarities, classes, strict=True):
            writer.writerow((path, places[0], values[0] - values[1]))


def prompts(spec: Spec) -> dict[str, float]:
    """`build_zero_shot_classifier` as `zero_shot_eval` calls it."""
    from open_clip import build_zero_shot_classifier

    return _prompts(spec, lambda *given: build_zero_shot_classifier(*given, num_classes_per_batch=10))


def prompts_by_class(spec: Spec) -> dict[str, float]:
    """OpenCLIP's loop of one class at a time, which is also CLIP_benchmark's."""
    from open_clip import build_zero_shot_classifier_legacy

    return _prompts(spec, build_zero_shot_classifier_legacy)


def _prompts(spec: Spec, build: Callable[..., Tensor]) -> dict[str, float]:
    model, _, tokenizer = opened(spec)
    print("prompts begin", flush=True)
    classifier_DN = build(model, tokenizer, spec["names"], spec["templates"])
    print("prompts end", flush=True)
    np.save(spec["classifier"], classifier_DN.numpy())
    return {}


def open_clip_retrieval(spec: Spec) -> dict[str, float]:
    """`open_clip_train.train.evaluate` on a table with a caption a picture."""
    from open_clip_train.data import get_csv_dataset
    from open_clip_train.train import evaluate

    model, transform, tokenizer = opened(spec)
    given = settings(spec)
    data = {"val": get_csv_dataset(given, transform, is_train=False, tokenizer=tokenizer)}
    found = evaluate(model, data, 1, given, tokenizer=tokenizer)
    return {name: float(value) for name, value in found.items()}


class _Captioned(Dataset[tuple[Tensor, list[str]]]):
    def __init__(self, pairs: list[tuple[str, list[str]]], transform: Any) -> None:
        self.pairs, self.transform = pairs, transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: int) -> tuple[Tensor, list[str]]:
        from torchvision.datasets.folder import default_loader

        path, captions = self.pairs[place]
        return self.transform(default_loader(path)), captions


def clip_benchmark_retrieval(spec: Spec) -> dict[str, float]:
    """CLIP_benchmark's retrieval on a table in which a picture has as many captions as rows."""
    from clip_benchmark.datasets.builder import image_captions_collate_fn
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate

    captions: dict[str, list[str]] = {}
    with Path(spec["table"]).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["filepath"], []).append(row["title"])
    model, transform, tokenizer = opened(spec)
    loader: Iterable[Any] = DataLoader(
        _Captioned(list(captions.items()), transform),
        batch_size=spec["batch_size"],
        num_workers=spec["workers"],
        collate_fn=image_captions_collate_fn,
    )
    return dict(evaluate(model, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10]))


WAYS = (open_clip, clip_benchmark, prompts, prompts_by_class, open_clip_retrieval, clip_benchmark_retrieval)

if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    (way,) = (each for each in WAYS if each.__name__ == sys.argv[1])
    print(json.dumps(way(json.loads(Path(sys.argv[2]).read_text()))), flush=True)
