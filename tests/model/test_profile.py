import json
from typing import Any

import pytest

from clipkit.model.config import config_names, named_config
from clipkit.model.profile import figures, flops_done, model_table

# Millions of parameters and GFLOPs, from docs/model_profile.csv of OpenCLIP.
OPEN_CLIP_FIGURES = {
    "RN50": (102.01, 18.18),
    "RN101": (119.69, 25.5),
    "RN50x4": (178.3, 51.82),
    "RN50x16": (290.98, 162.69),
    "RN50x64": (623.26, 552.65),
    "ViT-B/32": (151.28, 14.78),
    "ViT-B/16": (149.62, 41.09),
    "ViT-L/14": (427.62, 175.33),
    "ViT-L/14@336px": (427.94, 395.22),
}


def test_every_model_of_openais_is_compared(openai_clip: Any) -> None:
    assert list(OPEN_CLIP_FIGURES) == openai_clip.available_models()


@pytest.mark.parametrize("name", OPEN_CLIP_FIGURES)
def test_figures_are_those_of_open_clips_profile(name: str) -> None:
    parameters, gflops = OPEN_CLIP_FIGURES[name]
    counted = figures(named_config(name))
    assert round(counted.parameters / 1e6, 2) == parameters
    assert counted.gflops == pytest.approx(gflops, abs=0.01)


# What clipkit leaves out: of the last blocks, all but the answer's own position, keys and values aside; of
# the attention pool, the questions, mixtures and projections of the other positions.
UNREAD_TEXT = 76 * 9 * 512**2
UNREAD = {
    "RN50": UNREAD_TEXT + 49 * 2048 * (2048 + 1024) + 2 * 49 * 50 * 2048,
    "ViT-B/32": UNREAD_TEXT + 49 * 9 * 768**2,
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_done_is_that_without_what_nobody_reads(name: str) -> None:
    config = named_config(name)
    assert flops_done(config, 77) == figures(config).gflops * 1e9 - 2 * UNREAD[name]


def test_the_table_has_every_model_once() -> None:
    table = model_table()
    assert [row.name for row in table.rows] == config_names()
    assert json.loads(json.dumps(table.as_json()))["models"][0]["name"] == "RN50"
    row = ["RN50", "224", "1,024", "102.01", "18.18", "RN50-quickgelu"]
    assert row in [line.split() for line in table.lines().splitlines()]
