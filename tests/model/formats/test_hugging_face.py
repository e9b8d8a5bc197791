"""Folders that Hugging Face's own package opens, and those that it writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.model.checkpoint import load_model
from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig
from clipkit.model.convert import convert
from clipkit.model.formats import hugging_face
from tests.model.conftest import MICRO, SMALL, inputs, one_line, trained_looking, written
from tests.model.conversions import assert_nothing_written

CONFIG = SMALL["vit"]
SMALL_TEXT = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL_VISION = SMALL_TEXT | {"num_attention_heads": 1, "image_size": 32, "patch_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, written by clipkit; not to be changed."""
    place = tmp_path_factory.mktemp("hf")
    convert(written(trained_looking(CONFIG), place / "source.pt"), place / "model", "hf")
    return place / "model"


@pytest.fixture
def theirs(transformers: Any) -> Any:
    """A small `CLIPModel` with weights of its own."""
    return their_model(transformers)


def their_model(transformers: Any, act: str = "quick_gelu", **text: Any) -> Any:
    towers = {
        "text_config": SMALL_TEXT | {"hidden_act": act} | text,
        "vision_config": SMALL_VISION | {"hidden_act": act},
    }
    torch.manual_seed(3)
    model = transformers.CLIPModel(transformers.CLIPConfig(**towers, projection_dim=32)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("bias"):
                tensor.normal_(std=0.1)
            elif "norm" in name:
                tensor.uniform_(0.5, 1)
            elif name.endswith(("_proj.weight", "fc1.weight", "fc2.weight")):
                tensor.mul_(3)
    return model


def assert_agree(ours: Clip, theirs: Any) -> None:
    for pictures in (1, 5):
        images, tokens = inputs(ours.config, pictures)
        with torch.no_grad():
            images_BD, texts_BD, _ = ours.features(images, tokens)
            found = theirs(input_ids=tokens, pixel_values=images)
            assert (images_BD - found.image_embeds).abs().max() < 1e-5
            assert (texts_BD - found.text_embeds).abs().max() < 1e-5
            assert (ours(images, tokens)[0] - found.logits_per_image).abs().max() < 1e-4
            assert (images_BD[0] - images_BD[-1]).abs().max() > 1e-2 or pictures == 1
            assert (texts_BD[0] - texts_BD[-1]).abs().max() > 1e-2


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_their_package_opens_what_is_written(transformers: Any, tmp_path: Path, activation: str) -> None:
    config = CONFIG.model_copy(update={"activation": activation})
    source = written(trained_looking(config), tmp_path / "a.pt")
    result = convert(source, tmp_path / "model", "hf")
    assert result.open_with == f'transformers.CLIPModel.from_pretrained("{tmp_path / "model"}")'
    theirs, loading = transformers.CLIPModel.from_pretrained(result.path, output_loading_info=True)
    assert not any(loading.values())
    assert theirs.config.vision_config.hidden_act == activation
    assert_agree(load_model(source), theirs.eval())


def test_a_round_trip_keeps_every_bit(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "back.pt", "clipkit")
    before, after = load_model(folder.with_name("source.pt")), load_model(tmp_path / "back.pt")
    assert after.config.differences(before.config) == []
    assert all(torch.equal(after.state_dict()[key], value) for key, value in before.state_dict().items())
    assert after.state_dict().keys() == before.state_dict().keys()


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("end", [2, 49407])
def test_what_their_package_writes_is_read(transformers: Any, tmp_path: Path, act: str, end: int) -> None:
    theirs = their_model(transformers, act, eos_token_id=end)
    theirs.save_pretrained(tmp_path / "model")
    ours = load_model(tmp_path / "model")
    assert (ours.config.activation, ours.config.text.heads) == (act, 2)
    assert_agree(ours, theirs)


def test_shards_and_older_versions_are_read(theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert_agree(load_model(tmp_path / "shards"), theirs)

    bins = tmp_path / "bins"
    bins.mkdir()
    (bins / "config.json").write_text((tmp_path / "shards" / "config.json").read_text())
    halves: dict[str, dict[str, Any]] = {"pytorch_model-1.bin": {}, "pytorch_model-2.bin": {}}
    for number, (name, tensor) in enumerate(theirs.state_dict().items()):
        halves[f"pytorch_model-{1 + number % 2}.bin"][name] = tensor
    for name, tensors in halves.items():
        torch.save(tensors, bins / name)
    places = {key: name for name, tensors in halves.items() for key in tensors}
    (bins / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert_agree(load_model(bins), theirs)

    old = tmp_path / "old"
    old.mkdir()
    numbers = {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    torch.save(theirs.state_dict() | numbers, old / "pytorch_model.bin")
    content = json.loads((tmp_path / "shards" / "config.json").read_text())
    # The tower's settings twice, the second time deciding, and defaults left out.
    content |= {
        "text_config_dict": SMALL_TEXT,
        "text_config": {"hidden_size": 512},
        "vision_config_dict": None,
    }
    (old / "config.json").write_text(json.dumps(content))
    assert_agree(load_model(old), theirs)

    numbers["text_model.embeddings.position_ids"] = torch.arange(77).flip(0)[None]
    torch.save(theirs.state_dict() | numbers, old / "pytorch_model.bin")
    assert "position_ids does not count from 0" in one_line(lambda: load_model(old))


def test_models_are_called_by_their_names(tmp_path: Path) -> None:
    convert(written(trained_looking(MICRO), tmp_path / "a.pt"), tmp_path / "mine", "hf")
    assert load_model(tmp_path / "mine").config == MICRO
    assert load_model(tmp_path / "mine", model="ViT-Micro-16-32").config == MICRO
    line = one_line(lambda: load_model(tmp_path / "mine", model="ViT-Micro-16-32-gelu"))
    assert "activation is 'quick_gelu', not 'gelu'" in line


def copied(folder: Path, target: Path, **changes: Any) -> Path:
    """The folder with other contents of some files; `...` leaves one out."""
    target.mkdir()
    for path in folder.iterdir():
        name = path.name.replace(".", "_")
        content = changes.get(name, path)
        if isinstance(content, Path):
            (target / path.name).symlink_to(content)
        elif isinstance(content, bytes | str):
            (target / path.name).write_bytes(content if isinstance(content, bytes) else content.encode())
        elif content is not ...:
            (target / path.name).write_text(json.dumps(content))
    return target


def config_of(folder: Path, tower: str | None = None, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    if tower is None:
        return content | changes
    return content | {tower: content[tower] | changes}


@pytest.mark.parametrize(
    ("tower", "changes", "expected"),
    [
        (None, {"model_type": "siglip"}, "model_type is 'siglip', not 'clip'"),
        (None, {"projection_dim": "64"}, "projection_dim: Input should be a valid integer"),
        (None, {"projection_dim": 10**9}, "embed_dim: Input should be less than or equal to 16384"),
        (None, {"vision_config": 7}, "vision_config: Input should be"),
        ("text_config", {"hidden_act": "gelu_new"}, "text_config: hidden_act is 'gelu_new', not one of"),
        (
            "text_config",
            {"hidden_act": "gelu"},
            "hidden_act is gelu in one tower and quick_gelu in the other",
        ),
        ("text_config", {"eos_token_id": 7}, "text_config: eos_token_id is 7, not the last of 49408 tokens"),
        (
            "text_config",
            {"num_hidden_layers": 10**6},
            "text.layers: Input should be less than or equal to 256",
        ),
        ("text_config", {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06, not 1e-05"),
        ("vision_config", {"num_attention_heads": 4}, "4 heads of a tower 128 wide are not 64 wide"),
        (
            "vision_config",
            {"intermediate_size": 1000},
            "intermediate_size is 1000, not 4 times hidden_size 128",
        ),
        ("vision_config", {"num_channels": 1}, "num_channels is 1, not 3"),
        ("vision_config", {"patch_size": 5}, "image_size 32 is not a multiple of patch_size 5"),
        ("vision_config", {"image_size": -32}, "image_size: Input should be greater than or equal to 8"),
    ],
)
def test_configurations_that_clipkit_does_not_compute(
    folder: Path, tmp_path: Path, tower: str | None, changes: dict[str, Any], expected: str
) -> None:
    model = copied(folder, tmp_path / "model", config_json=config_of(folder, tower, **changes))
    line = one_line(lambda: load_model(model))
    assert f"{model / 'config.json'} is of no CLIP that clipkit computes: " in line
    assert expected in line


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("config.json", b"{", "config.json is damaged: Expecting property name"),
        ("config.json", b"[" * 100_000, "config.json is damaged: no JSON"),
        ("config.json", b"[" * 500 + b"]" * 500, "config.json is nested more than 32 deep"),
        (
            "config.json",
            {"model_type": "x" * 100_000},
            "config.json is of no CLIP that clipkit computes: model",
        ),
        ("config.json", b"[]", "config.json is of no CLIP that clipkit computes"),
        ("config.json", b'{"model_type": ' + b"1" * 5_000 + b"}", "config.json is damaged: no JSON"),
        ("config.json", b"\xff\xfe", "config.json is not text in UTF-8"),
        ("config.json", b" " * (1 << 23) + b"{}", "config.json is larger than 8 MiB"),
        ("config.json", ..., "is a folder without config.json"),
        ("model.safetensors", ..., "holds no weights of a CLIPModel: expected model.safetensors or pytorch"),
        ("model.safetensors", b"\xff" * 8 + b"{", "no safetensors file that can be read"),
        ("vocab.json", {"a": 0}, "vocab.json has 1 tokens, not the 49408 of OpenAI's tokenizer"),
        ("merges.txt", "#version: 0.2\nt h\n", "merges.txt has other merges than OpenAI's tokenizer"),
        ("tokenizer.json", {"model": {"type": "Unigram"}}, "tokenizer.json describes no byte-pair tokenizer"),
        (
            "tokenizer.json",
            {"model": {"merges": [7], "vocab": {}}},
            "has 0 tokens, not the 49408 of OpenAI's",
        ),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}, "has image_mean [0.5, 0.5, 0.5], not"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 36}}, "has size {'shortest_edge': 36}, not"),
        ("preprocessor_config.json", {"do_center_crop": False}, "has do_center_crop False, not True"),
        ("preprocessor_config.json", {"crop_size": [[], {}]}, "has crop_size [[], {}], not"),
    ],
)
def test_damaged_and_hostile_files_get_one_line(
    folder: Path, tmp_path: Path, name: str, content: Any, expected: str
) -> None:
    model = copied(folder, tmp_path / "model", **{name.replace(".", "_"): content})
    line = one_line(lambda: load_model(model))
    assert expected in line and len(line) < 1_000


def test_another_vocabulary_is_told_by_its_first_token(folder: Path, tmp_path: Path) -> None:
    numbers = json.loads((folder / "vocab.json").read_text())
    numbers["dog</w>"], numbers["cat</w>"] = numbers["cat</w>"], numbers["dog</w>"]
    model = copied(folder, tmp_path / "model", vocab_json=numbers)
    assert "vocab.json numbers 'dog</w>' otherwise" in one_line(lambda: load_model(model))


def test_their_processors_file_is_checked(transformers: Any, folder: Path, tmp_path: Path) -> None:
    model = copied(folder, tmp_path / "model", preprocessor_config_json=...)
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    processor.image_processor.save_pretrained(model)
    assert load_model(model).config.differences(CONFIG) == []
    (model / "preprocessor_config.json").unlink()
    content = {"processor_class": "CLIPProcessor", "image_processor": processor.image_processor.to_dict()}
    (model / "processor_config.json").write_text(json.dumps(content))  # as their version 5 has it
    assert load_model(model).config.differences(CONFIG) == []
    content["image_processor"]["resample"] = 2
    (model / "processor_config.json").write_text(json.dumps(content))
    assert "processor_config.json has resample 2, not 3" in one_line(lambda: load_model(model))


def test_half_precision_is_read_into_float32(theirs: Any, tmp_path: Path) -> None:
    theirs.half().save_pretrained(tmp_path / "model")
    ours = load_model(tmp_path / "model")
    assert {tensor.dtype for tensor in ours.parameters()} == {torch.float32}
    assert_agree(ours, theirs.float())


def test_older_preprocessor_files_are_understood(folder: Path, tmp_path: Path) -> None:
    model = copied(folder, tmp_path / "model", preprocessor_config_json={"size": 32, "crop_size": 32})
    assert load_model(model).config.differences(CONFIG) == []


def test_tensors_are_asked_for_by_their_names(theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "model", max_shard_size="1MB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    places = good["weight_map"]
    first, *others = sorted(set(places.values()))
    of_others = next(key for key, place in places.items() if place in others)
    for changes, expected in (
        ({of_others: first}, f"does not say that {of_others} is in {places[of_others]}, where it is"),
        ({"more.weight": first}, f"says that more.weight is in {first}, where it is not"),
        (
            {of_others: "../secret.safetensors"},
            "names '../secret.safetensors', which is no .safetensors file",
        ),
        ({of_others: "x" * 5_000 + ".safetensors"}, "names 'xxx"),
        ({of_others: "a.bin"}, "names 'a.bin', which is no .safetensors file beside it"),
        ({"more.weight": "none.safetensors"}, "there is no file"),
    ):
        index.write_text(json.dumps(good | {"weight_map": places | changes}))
        assert expected in one_line(lambda: load_model(tmp_path / "model"))
    index.write_text(json.dumps({"weight_map": []}))
    assert "has no weight_map" in one_line(lambda: load_model(tmp_path / "model"))
    index.unlink()
    tensors = theirs.state_dict()
    for content, expected in (
        (tensors | {"more.weight": torch.zeros(2)}, "which has no more.weight"),
        ({k: v for k, v in tensors.items() if k != "visual_projection.weight"}, "it lacks visual_projection"),
        (
            tensors | {"visual_projection.weight": torch.zeros(2)},
            "visual_projection.weight has shape (2,), not",
        ),
        ([tensors], "holds a list; expected named tensors"),
    ):
        torch.save(content, tmp_path / "model" / "pytorch_model.bin")
        assert expected in one_line(lambda: load_model(tmp_path / "model"))


def test_resnets_and_other_vocabularies_are_refused(tmp_path: Path) -> None:
    other = CONFIG.model_copy(update={"text": CONFIG.text.model_copy(update={"vocab_size": 100})})
    for config, reason in (
        (SMALL["resnet"], "its image tower is a vision transformer, that of a small ResNet a ResNet"),
        (other, "it comes with a tokenizer, and OpenAI's has 49408 tokens where a small ViT has 100"),
    ):
        source = written(trained_looking(config), tmp_path / "a.pt")
        assert_nothing_written(source, "hf", f"cannot be written in the format hf: {reason}")


def test_other_context_lengths_are_written(transformers: Any, tmp_path: Path) -> None:
    config: ClipConfig = CONFIG.model_copy(
        update={"text": CONFIG.text.model_copy(update={"context_length": 32})}
    )
    source = written(trained_looking(config), tmp_path / "a.pt")
    convert(source, tmp_path / "model", "hf")
    assert_agree(load_model(source), transformers.CLIPModel.from_pretrained(tmp_path / "model").eval())
    assert transformers.CLIPTokenizer.from_pretrained(tmp_path / "model").model_max_length == 32


def test_only_folders_of_such_models_are_replaced(folder: Path, tmp_path: Path) -> None:
    source = folder.with_name("source.pt")
    target = tmp_path / "target"
    target.mkdir()
    convert(source, target, "hf")  # an empty one is no loss
    before = (target / "model.safetensors").stat().st_ino
    convert(source, target, "hf")
    assert (target / "model.safetensors").stat().st_ino != before
    assert hugging_face.is_folder(target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    link = tmp_path / "link"
    link.symlink_to(target)
    convert(source, link, "hf")
    assert link.is_symlink() and hugging_face.is_folder(target)

    (target / "thesis.tex").write_text("three years of work")
    with pytest.raises(ConfigError, match=r"a model folder to replace, found thesis\.tex in it"):
        convert(source, target, "hf")
    assert (target / "thesis.tex").read_text() == "three years of work"
    (target / "thesis.tex").unlink()
    (target / "config.json").unlink()
    with pytest.raises(ConfigError, match="found no whole model in it"):
        convert(source, target, "hf")
    for place in (source, tmp_path / "file"):
        place.touch()
        with pytest.raises(ConfigError, match=r"the folder to convert itself|found something else there"):
            convert(source, place, "hf")


def test_the_source_is_not_replaced_by_its_result(theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="is the folder to convert itself"):
        convert(tmp_path / "model", tmp_path / "model", "hf")
    with pytest.raises(ConfigError, match="found the model to convert in it"):
        convert(tmp_path / "model" / "model.safetensors", tmp_path / "model", "hf", "ViT-Micro/16@32px")
    assert_agree(load_model(tmp_path / "model"), theirs)


def test_a_failure_leaves_the_old_folder(folder: Path, tmp_path: Path, tiny_disk: Path) -> None:
    clip = trained_looking(MICRO)
    with torch.no_grad():
        clip.ln_final.bias[0] = float("nan")
    source = written(clip, tmp_path / "a.pt")
    target = copied(folder, tmp_path / "result")
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(CheckpointError, match="was not written: reopened, its features differ by nan"):
        convert(source, target, "hf")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "disk", "result"]

    full = tiny_disk / "model"
    full.mkdir()
    with pytest.raises(OSError, match=f"No space left on device: '{full}'"):
        convert(folder, full, "hf")
    assert [path.name for path in tiny_disk.iterdir()] == ["model"]
    assert list(full.iterdir()) == []


def test_the_folder_of_a_run_names_its_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"found the folder of a run: .* \S+/checkpoints/latest"):
        hugging_face.read(tmp_path)
