"""How much of the line between two models is decoding, which `clipkit finetune` does again for each α.

    python bench/line.py [--pictures 150]

CPU time a picture, in one process, of the two stages of measuring a point: pictures to uint8 batches, and
batches to features. Pictures are those of bench/evaluate.py; weights are random. float32 on the CPU.
"""

import argparse
import time

import torch
from evaluating.pictures import make_set
from evaluating.sides import BUILD

from clipkit.evaluate.classes import read_classes
from clipkit.evaluate.decode import decoded_batches
from clipkit.evaluate.images import read_folder
from clipkit.evaluate.zero_shot import image_features
from clipkit.model.clip import build
from clipkit.model.config import named_config
from clipkit.model.preprocess import EvalTransform

MODELS = ("ViT-Micro/16@32px", "ViT-Mini/8@64px", "RN50", "ViT-B/32")
BATCH = 25


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=150)
    wanted = parser.parse_args().pictures
    torch.set_num_threads(1)
    made = make_set(BUILD / "line", -(-wanted // 75))
    labels = read_classes(made.classes, name="val").folder_labels
    images = read_folder(made.folder, labels, name="val")
    images = images.chosen(range(min(wanted, len(images))))
    print("| model | decoding | features | decoding's share |\n|---|---|---|---|")
    for name in MODELS:
        model = build(named_config(name), 0).eval()
        decoding, features = 0.0, 0.0
        begun = time.process_time()
        stream = decoded_batches(
            images.pictures, EvalTransform(model.config.image_size), batch_size=BATCH, workers=0
        )
        for batch in stream:
            decoded = time.process_time()
            image_features(model, batch.images_BCHW)
            decoding, features = decoding + decoded - begun, features + time.process_time() - decoded
            begun = time.process_time()
        each = 1000 / len(images)
        share = decoding / (decoding + features)
        print(f"| {name} | {decoding * each:.2f} ms | {features * each:.2f} ms | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
