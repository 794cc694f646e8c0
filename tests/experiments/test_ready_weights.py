"""The ready model: packed in half precision with its card, found by its name, its scenes nobody else's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldmseg_lib.core import paths
from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.files import read_json
from ldmseg_lib.data.scenes.dataset import SCENE_SEEDS
from ldmseg_lib.experiments import pretrained_weights as ready_weights
from ldmseg_lib.experiments.pretrained_weights import SPLITS, main, make_ready_weights
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, smoke_profile) -> Path:
    root = tmp_path_factory.mktemp("ready")
    make_ready_weights(
        smoke_profile, work=root / "work", out=root / "pipeline" / "weights" / "embedded", progress=False
    )
    return root


def test_it_is_small_half_precision_and_loads_by_its_name(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = load_file(made / "pipeline" / "weights" / "embedded" / "denoiser" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    monkeypatch.setattr(paths, "PACKAGE", made)
    loaded = LDMSegPipeline.from_pretrained("embedded")
    assert loaded.denoiser.dtype == torch.float32 and not loaded.trained_on_photographs
    trained = LDMSegPipeline.from_pretrained(made / "work" / "diffusion" / "pipeline")
    for name, tensor in trained.denoiser.state_dict().items():
        assert torch.allclose(loaded.denoiser.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)


def test_its_card_says_data_budget_metrics_limits_biases_and_how_to_make_it(made: Path) -> None:
    card = (made / "pipeline" / "weights" / "embedded" / "README.md").read_text()
    for part in (
        *("12 drawn scenes of the split ready_train", "autoencoder: 6 steps of batch 8", "| class-agnostic PQ |"),
        *("On the 4 scenes of ready_test", "min_area 2 px", "## Limits", "hallucinate", "no biases of theirs"),
        "python -m ldmseg_lib.experiments.pretrained_weights",
    ):
        assert part in card, part


def test_it_does_not_say_where_it_lay_before_it_was_packed(made: Path) -> None:
    settings = list((made / "pipeline" / "weights" / "embedded").rglob("*.json"))
    assert len(settings) == 4
    for path in settings:
        assert "_name_or_path" not in path.read_text() and str(made) not in path.read_text()


def test_its_scenes_are_its_own(made: Path) -> None:
    """Neither trained nor judged on what anyone else trains or judges on."""
    for split in SPLITS:
        document = read_json(made / "work" / "data" / f"panoptic_{split}.json")
        numbers = {image["id"] for image in document["images"]}
        assert numbers <= set(SCENE_SEEDS[split])
        assert all(numbers.isdisjoint(SCENE_SEEDS[other]) for other in SCENE_SEEDS if other != split)


def test_a_pipeline_trained_elsewhere_is_packed_and_an_older_one_replaced(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoke_overrides, capsys
) -> None:
    monkeypatch.setattr(ready_weights, "_train", lambda *_: pytest.fail("trained again"))
    overrides = ",".join(f"{key}={value}" for key, value in smoke_overrides.items())
    command = [
        "--profile",
        "smoke",
        "--overrides",
        overrides,
        "--work",
        str(made / "work"),
        "--out",
        str(tmp_path / "o"),
    ]
    for _ in range(2):
        trained = str(made / "work" / "diffusion" / "pipeline")
        assert main([*command, "--pipeline", trained, "--further-steps", "1", "3", "--samples", "2"]) == 0
    assert "class-agnostic PQ" in capsys.readouterr().out
    card = (tmp_path / "o" / "README.md").read_text()
    assert f'--overrides "{overrides}"' in card
    for metric in (
        "class-agnostic PQ with 1 steps",
        "class-agnostic PQ with 3 steps",
        "consensus of 2 samples of 3 steps",
    ):
        assert f"{metric} |" in card, metric
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_it_goes_on_from_a_trained_pipeline(made: Path, tmp_path: Path, smoke_profile) -> None:
    start = made / "work" / "diffusion" / "pipeline"
    make_ready_weights(smoke_profile, work=tmp_path / "work", out=tmp_path / "o", start=start, progress=False)
    before, after = (LDMSegPipeline.from_pretrained(folder) for folder in (start, tmp_path / "work/diffusion/pipeline"))
    assert same_weights(before.autoencoder, after.autoencoder) and not same_weights(before.denoiser, after.denoiser)
    card = (tmp_path / "o" / "README.md").read_text()
    assert f"begun from the pipeline {start}" in card and "autoencoder: 6 steps" not in card


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_other_folders_and_large_weights_are_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoke_profile
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no pipeline"):
        make_ready_weights(smoke_profile, work=made / "work", out=tmp_path, progress=False)
    monkeypatch.setattr(ready_weights, "MAX_BYTES", 1000)
    trained = made / "work" / "diffusion" / "pipeline"
    with pytest.raises(InputError, match="narrower networks"):
        make_ready_weights(smoke_profile, work=made / "work", out=tmp_path / "o", trained=trained, progress=False)
    assert not (tmp_path / "o").exists()


def test_no_stage_of_a_reproduction_loads_it() -> None:
    for path in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        assert "embedded_folder" not in path.read_text() and 'from_pretrained("embedded")' not in path.read_text()
