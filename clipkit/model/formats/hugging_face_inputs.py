"""The files that tell Hugging Face's tokenizer and image processor what OpenAI's do, written and checked.

`CLIPTokenizer` knows the same words and merges, but it does not mend text as OpenAI's does (ftfy, HTML
entities, so curly quotes too): Unicode in NFC is all that it asks for. `CLIPImageProcessor` resizes with
torchvision, mostly within one level of 255; it cuts an odd margin a pixel elsewhere, and makes something else
of palettes and transparency.
"""

from collections.abc import Callable
from typing import Any

from clipkit.model.config import ClipConfig
from clipkit.model.preprocess import MEAN, STD
from clipkit.model.tokenizer import END_OF_TEXT, END_OF_WORD, START_OF_TEXT, vocabulary

VOCABULARY_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"

BICUBIC = 3
_MERGES_HEAD = "#version: 0.2"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SPECIAL = {
    "bos_token": START_OF_TEXT,
    "eos_token": END_OF_TEXT,
    "pad_token": END_OF_TEXT,
    "unk_token": END_OF_TEXT,
}


def input_files(config: ClipConfig) -> dict[str, Any]:
    """Each file's name and content: text, or what stands in its JSON."""
    return {
        VOCABULARY_FILE: vocabulary().ids,
        MERGES_FILE: "\n".join([_MERGES_HEAD, *_merges(), ""]),
        TOKENIZER_FILE: _tokenizer(),
        TOKENIZER_CONFIG_FILE: {
            "tokenizer_class": "CLIPTokenizer",
            "do_lower_case": True,
            "model_max_length": config.text.context_length,
            **_SPECIAL,
        },
        SPECIAL_TOKENS_FILE: _SPECIAL,
        PREPROCESSOR_FILE: _processor(config.image_size),
    }


def vocabulary_fault(content: Any) -> str | None:
    """What makes a `vocab.json` another tokenizer's than OpenAI's; None if nothing does."""
    expected = vocabulary().ids
    if not isinstance(content, dict):
        return f"is a {type(content).__name__}, not a table of tokens"
    if content == expected:
        return None
    if len(content) != len(expected):
        return f"has {len(content)} tokens, not the {len(expected)} of OpenAI's tokenizer"
    other = next(token for token, number in content.items() if expected.get(token) != number)
    return f"numbers {other[:40]!r} otherwise than OpenAI's tokenizer"


def merges_fault(lines: list[str]) -> str | None:
    """What makes a `merges.txt` another tokenizer's; None if nothing does. More merges are never used."""
    expected = _merges()
    lines = lines[1:] if lines and lines[0].startswith("#") else lines
    if lines[: len(expected)] != expected:
        return "has other merges than OpenAI's tokenizer"
    return None


def tokenizer_fault(content: Any) -> str | None:
    """What makes a `tokenizer.json` another tokenizer's; None if nothing does."""
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(merges := model.get("merges"), list):
        return "describes no byte-pair tokenizer"
    joined = [" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges]
    return vocabulary_fault(model.get("vocab")) or merges_fault(joined)


def processor_fault(content: Any, image_size: int) -> str | None:
    """What a `preprocessor_config.json` does otherwise than OpenAI's transform; None if nothing."""
    if not isinstance(content, dict):
        return f"is a {type(content).__name__}, not a table of settings"
    expected = _processor(image_size)
    for key, read in _READ.items():
        found = content.get(key)
        if found is not None and read(found) != read(expected[key]):
            return f"has {key} {str(found)[:80]}, not {expected[key]}"
    return None


def _merges() -> list[str]:
    return [" ".join(pair) for pair in vocabulary().merges]


def _processor(image_size: int) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def _sides(value: Any) -> Any:
    # Older versions wrote one number.
    sides = value.values() if isinstance(value, dict) else [value]
    return {side if isinstance(side, int) else str(side) for side in sides}


def _rounded(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    return [round(part, 4) if isinstance(part, int | float) else part for part in values]


_READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize", "resample"), _rounded),
    **dict.fromkeys(("image_mean", "image_std", "rescale_factor"), _rounded),
    **dict.fromkeys(("size", "crop_size"), _sides),
}


def _tokenizer() -> dict[str, Any]:
    numbers = vocabulary().ids
    whole = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    specials = (START_OF_TEXT, END_OF_TEXT)
    split = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Removed", "invert": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": numbers[token], "content": token, **whole} for token in specials],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, _byte_level(prefix=False)]},
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [END_OF_TEXT, numbers[END_OF_TEXT]],
            "cls": [START_OF_TEXT, numbers[START_OF_TEXT]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": _byte_level(prefix=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": END_OF_TEXT,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": END_OF_WORD,
            "fuse_unk": False,
            "vocab": numbers,
            "merges": _merges(),
        },
    }


def _byte_level(prefix: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
