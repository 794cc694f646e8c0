"""Notebook 07 as a batch run has it: every cell in smoke size, crashes that cost nothing, files that others read."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import Dinov2Model

from ldmseg_lib.core import paths
from ldmseg_lib.core.files import read_json
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.experiments.components.study import ComponentStudy
from ldmseg_lib.reproduction.results import load_results, write_tables
from ldmseg_lib.reproduction.stage_keys import stage_keys
from ldmseg_lib.reproduction.stages import open_stage

NAME = "07_components"


@pytest.fixture(scope="module")
def overrides(smoke_overrides) -> dict:
    """The smoke profile with trainings of two steps."""
    sections = ("image_autoencoder", "vit", "autoencoder", "diffusion")
    steps = {f"components.{section}.training.steps": 2 for section in sections}
    return {**smoke_overrides, **steps, "components.num_images": 2, "components.num_inference_steps": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory, smoke_stages, overrides):
    """A run folder with the notebook executed."""
    papermill = pytest.importorskip("papermill")
    folder = tmp_path_factory.mktemp("components")
    run_dir = smoke_stages(folder / "run")
    papermill.execute_notebook(
        str(paths.NOTEBOOKS / f"{NAME}.ipynb"),
        str(folder / f"{NAME}.ipynb"),
        parameters={"profile": "smoke", "run_dir": str(run_dir), "overrides": overrides},
        kernel_name="python3",
        engine_name="terminal",
        cwd=str(paths.NOTEBOOKS),
        progress_bar=False,
    )
    return run_dir


@pytest.fixture(scope="module")
def metrics(run) -> dict:
    return read_json(run / NAME / "result.json")["metrics"]


def study(run, overrides, **changes) -> ComponentStudy:
    stage = open_stage(NAME, profile="smoke", run_dir=run, overrides=overrides)
    # changes are not given to the stage: opened with other settings, it would clear its folder
    profile = Profile.load("smoke", overrides | changes)
    return ComponentStudy(profile, stage.data_root, run / "cache", data_key=stage.key_of("01_dataset"))


def test_rows_that_are_trained_alike_share_a_training(run, metrics):
    folders = [row["training"] for row in metrics["table_s3"]]
    assert folders[0] == folders[1] != folders[2] == folders[3]
    used = {row["training"] for name in ("table_s3", "rows", "id_orders") for row in metrics[name]}
    used |= {entry["prediction"]["training"] for entry in metrics["latents"]}
    # reconstructive, base; noise with and without weight, x0, v; self-conditioning; by position; other latents
    assert len(used) == 9 == len(list((run / "cache").glob("diffusion-*")))
    groups = {(row["group"], row["name"]): row["training"] for row in metrics["rows"]}
    assert groups["order of ids", "random (the paper)"] == groups["self-conditioning", "off"] == folders[2]


def test_scheduler_and_average_change_the_scores_and_not_the_training(run, metrics, overrides):
    known = study(run, overrides)
    first, second = (row for row in metrics["table_s3"] if row["encoder"] == "image_autoencoder")
    assert (first["averaged"], second["averaged"]) == (False, True)
    folder = run / "cache" / first["training"]
    assert (folder / "pipeline").is_dir() and (folder / "pipeline_last").is_dir()
    assert known.settings.diffusion.training.ema_decay is not None


def test_each_encoder_is_called_by_its_own_name_and_says_where_it_is_from(run, metrics):
    for encoder in metrics["encoders"].values():
        assert encoder["weights"] == "trained by this notebook" and encoder["training"]["steps"] == 2
        assert encoder["label"].startswith("small ") and "DINO" not in encoder["label"] and "SD" not in encoder["label"]
    assert read_json(run / NAME / "result.json")["weights"] == "trained by this notebook"


def test_the_vit_lies_in_the_stage_s_folder_as_transformers_wrote_it(run, overrides):
    model = Dinov2Model.from_pretrained(run / NAME / "vit")
    settings = Profile.load("smoke", overrides).components.vit
    assert (model.config.hidden_size, model.config.patch_size) == (settings.hidden_size, settings.patch_size)
    (vae,) = (run / "cache").glob("image_autoencoder-*/vae")
    assert AutoencoderKL.from_pretrained(vae).config.latent_channels == 4


def test_tables_and_figures_are_made_of_the_result_alone(run, tmp_path):
    names = {"table_s3", "image_encoders", "loss_components", "id_orders", "id_order_inpainting", "latent_resolution"}
    assert names <= {file.stem for file in write_tables(load_results(run), tmp_path)}
    for name in names:
        text = (tmp_path / f"{name}.md").read_text()
        assert "these numbers mean nothing" in text and "each diffusion model 2 steps" in text
    for name in ("image_encoders", "id_orders", "latent_resolution"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 1000


def test_after_a_crash_nothing_finished_is_done_again(run, metrics, overrides, monkeypatch):
    """With everything cached, no training and no sampling is needed for the whole result."""
    for name in ("train_diffusion", "train_autoencoder", "train_image_autoencoder", "train_self_distilled_vit"):
        monkeypatch.setattr(f"ldmseg_lib.experiments.components.study.{name}", pytest.fail)
    for name in ("score_segmentation", "evaluate_inpainting"):
        monkeypatch.setattr(f"ldmseg_lib.experiments.components.study.{name}", pytest.fail)
    again = study(run, overrides).run()
    assert again["table_s3"] == metrics["table_s3"] and again["rows"] == metrics["rows"]


def test_a_setting_of_the_evaluation_costs_no_training(run, overrides, monkeypatch):
    monkeypatch.setattr("ldmseg_lib.experiments.components.study.train_diffusion", pytest.fail)
    other = study(run, overrides, **{"components.num_inference_steps": 1})
    variant = other.rows[-1].variant
    assert other.scores(variant)["steps"] == 1


def test_another_seed_is_another_training(run, overrides):
    known = study(run, overrides)
    key = known.encoder("vit").key
    known.seed = 1
    assert known.encoder("vit").key != key


def test_published_weights_are_used_where_the_profile_names_them(run, overrides):
    vit = run / NAME / "vit"
    other = study(run, overrides, **{"components.vit.pretrained": str(vit)})
    assert other.encoder("vit") is None and other.encoder_source("vit") == str(vit)
    described = other.describe_encoder("vit")
    assert described["weights"] == str(vit) and described["label"] == f"Dinov2Model {vit}"
    assert other.export_vit(run / "elsewhere") is None and not (run / "elsewhere").exists()


def test_its_key_follows_its_settings_and_no_other_stage_s_does():
    before, after = (
        {name: key.digest for name, key in stage_keys(Profile.load("demo", change)).items()}
        for change in (None, {"components.vit.prototypes": 99})
    )
    changed = [name for name in before if before[name] != after[name]]
    assert NAME in changed and not {"01_dataset", "02_autoencoder", "04_diffusion", "05_panoptic_evaluation"} & {
        *changed
    }


def test_the_cached_vit_and_its_encoder_agree(run, overrides):
    """What the denoiser was conditioned on is the file that other notebooks read."""
    from ldmseg_lib.experiments.components.rows import Variant, variant_profile
    from ldmseg_lib.models.image_encoders import build_image_encoder

    known = study(run, overrides)
    profile = variant_profile(known.profile, Variant(), encoder=known.encoder_source("vit"))
    held = build_image_encoder(dataclasses.replace(profile)).backbone.state_dict()
    shared = Dinov2Model.from_pretrained(run / NAME / "vit").state_dict()
    assert held.keys() == shared.keys() and all(torch.equal(held[name], shared[name]) for name in held)
