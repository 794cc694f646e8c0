"""What becomes of every tensor of the published weights that a profile starts from: used, or not, and why.

    python -m ldmseg_lib.models.weight_accounting --profile paper

Reads names and shapes alone: run it before a long training, to see that the weights on disk are the right ones.
"""

import argparse
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import Dinov2Config, Dinov2Model

from ..core.errors import InputError, one_line_errors
from ..core.profiles import Profile

# the attention of Stable Diffusion's VAE has two sets of names; v1.4's file has the older one
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# the published DINOv2's names for its attention, and those of today's transformers
PUBLISHED_VIT = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


@dataclass(frozen=True)
class Fate:
    """What becomes of one tensor of a file."""

    tensor: str  # as the file calls it
    shape: tuple[int, ...]
    used_as: str | None  # the network's own name for it; None: not used
    remark: str = ""  # why not, or how


def account_for_weights(profile: Profile) -> dict[str, list[Fate]]:
    """Every tensor of the checkpoints that `denoiser.pretrained` and `image_encoder.pretrained` name, by checkpoint.

    Raises:
        InputError: a checkpoint is neither on disk nor to be fetched, lacks a tensor, or has one of another shape.
    """
    found: dict[str, list[Fate]] = {}
    denoiser, encoder = profile.denoiser, profile.image_encoder
    if denoiser.pretrained is not None:
        found[f"denoiser.pretrained: {denoiser.pretrained}, unet"] = _unet(denoiser.pretrained)
    if encoder.pretrained is not None and encoder.kind == "sd_vae":
        found[f"image_encoder.pretrained: {encoder.pretrained}, vae"] = _vae(encoder.pretrained)
    if encoder.pretrained is not None and encoder.kind == "vit":
        found[f"image_encoder.pretrained: {encoder.pretrained}"] = _vit(encoder.pretrained)
    return found


def _unet(source: str) -> list[Fate]:
    config, tensors = _checkpoint(source, "unet", key="denoiser.pretrained")
    with torch.device("meta"):
        wanted = _shapes(UNet2DConditionModel.from_config(config))
    remarks = {"conv_in.weight": "its columns are the first; those of the image and the self-condition begin as zeros"}
    return _fates(source, tensors, {name: name for name in tensors}, wanted, remarks)


def _vae(source: str) -> list[Fate]:
    config, tensors = _checkpoint(source, "vae", key="image_encoder.pretrained")
    with torch.device("meta"):
        wanted = _shapes(AutoencoderKL.from_config(config))
    names = {name: _new_attention_name(name) for name in tensors}
    remarks = {
        name: "the VAE's decoder, which is not kept"
        for name in wanted
        if name.startswith(("decoder.", "post_quant_conv."))
    }
    return _fates(source, tensors, names, wanted, remarks, dropped=set(remarks))


def _vit(source: str) -> list[Fate]:
    config, tensors = _checkpoint(source, "", key="image_encoder.pretrained")
    with torch.device("meta"):
        wanted = _shapes(Dinov2Model(Dinov2Config.from_dict(config)))
    names = {name: _present_vit_name(name) for name in tensors}
    remarks = {"embeddings.mask_token": "serves masked training alone and does not learn"}
    return _fates(source, tensors, names, wanted, remarks)


def _fates(
    source: str,
    tensors: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str],
    wanted: Mapping[str, tuple[int, ...]],
    remarks: Mapping[str, str],
    dropped: Collection[str] = (),
) -> list[Fate]:
    missing = sorted(set(wanted) - set(names.values()) - set(dropped))
    if missing:
        raise InputError(f"{source}: lacks {missing[0]!r} and {len(missing) - 1} more; it belongs to another model")
    fates = []
    for name, shape in tensors.items():
        own = names[name]
        if own not in wanted:
            fates.append(Fate(name, shape, None, "the network has nothing of this name"))
        elif wanted[own] != shape:
            raise InputError(f"{source}: {name!r} has shape {list(shape)}, not {list(wanted[own])}")
        else:
            fates.append(Fate(name, shape, None if own in dropped else own, remarks.get(own, "")))
    return fates


def _new_attention_name(name: str) -> str:
    parts = name.split(".")
    if "attentions" in parts and len(parts) >= 2 and parts[-2] in OLD_ATTENTION:
        parts[-2] = OLD_ATTENTION[parts[-2]]
    return ".".join(parts)


def _present_vit_name(name: str) -> str:
    for published, present in PUBLISHED_VIT.items():
        name = name.replace(f".{published}.", f".{present}.")
    # files of whole models call the backbone by its own name
    return name.removeprefix("dinov2.")


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _checkpoint(source: str, subfolder: str, *, key: str) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The configuration of a checkpoint, and name and shape of each of its tensors."""
    patterns = [f"{subfolder}/*" if subfolder else "*"]
    try:
        root = Path(source) if Path(source).is_dir() else Path(snapshot_download(source, allow_patterns=patterns))
        folder = root / subfolder
        config = json.loads((folder / "config.json").read_bytes())
        tensors: dict[str, tuple[int, ...]] = {}
        for file in _weight_files(folder):
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{key}: no weights were found at {source!r} ({' '.join(str(error).split())[:200]}); download them with"
            f" `hf download {source}` (HF_HOME names the cache), or set {key} to a folder that holds them"
        ) from error
    return config, tensors


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder in full precision; half-precision copies and Flax's stand beside them."""
    files = [file for file in sorted(folder.glob("*.safetensors")) if ".fp16." not in file.name]
    if not files:
        raise FileNotFoundError(f"{folder} holds no safetensors")
    return files


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code 2 for bad input, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m ldmseg_lib.models.weight_accounting", description=__doc__)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--overrides")
    given = parser.parse_args(arguments)
    accounts = account_for_weights(Profile.load(given.profile, given.overrides))
    for checkpoint, fates in accounts.items():
        used = [fate for fate in fates if fate.used_as is not None]
        print(f"{checkpoint}: {len(fates)} tensors, {len(used)} used")
        for remark in dict.fromkeys(fate.remark for fate in fates if fate.remark):
            names = [fate.tensor for fate in fates if fate.remark == remark]
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            print(f"  {shown}: {remark}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
