"""A side's own training program, knowing one more model: `python program.py SIDE MODEL.json WORD …`.

MODEL.json is a configuration as OpenCLIP takes them, its name that of the file; the words are those of
`clipkit train` or of `python -m open_clip_train.main`.
"""

import json
import sys
from pathlib import Path


def clipkit(model: Path, words: list[str]) -> None:
    from clipkit.__main__ import main
    from clipkit.model import config
    from clipkit.model.formats.open_clip import from_json

    made = from_json(json.loads(model.read_text()), model.stem)
    config._BY_DASHED_NAME.setdefault(made.file_name.lower(), made)  # as a named one: --model takes names
    sys.argv[1:] = ["train", *words]
    main()


def open_clip(model: Path, words: list[str]) -> None:
    import open_clip as package
    from open_clip_train.main import main

    package.add_model_config(model)
    main(words)


if __name__ == "__main__":
    {each.__name__: each for each in (clipkit, open_clip)}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
