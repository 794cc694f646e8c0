"""Training the mask autoencoder: what its targets are, how its losses add up, and what is saved."""

import dataclasses

import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.data.panoptic import collate
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.models.autoencoder import MaskAutoencoder, build_autoencoder
from ldmseg_lib.training.autoencoder import (
    AutoencoderObjective,
    measure_latent_std,
    train_autoencoder,
    warn_of_latent_scale,
)


@pytest.fixture(scope="module")
def dataset(smoke_profile, smoke_data):
    return training_split(smoke_profile, smoke_data)


def objective(profile, *, semantic_fraction: float = 0.5, seed: int = 0) -> AutoencoderObjective:
    torch.manual_seed(0)
    return AutoencoderObjective(
        build_autoencoder(profile), num_points=48, semantic_fraction=semantic_fraction, seed=seed
    )


def loss_and_gradients(model, samples: list, micro: int) -> tuple[float, list[torch.Tensor]]:
    """Of one effective batch, in micro-batches of `micro` samples."""
    batches = [collate(samples[start : start + micro]) for start in range(0, len(samples), micro)]
    shares = [model.normalisers(batch) for batch in batches]
    totals = {name: sum(share[name] for share in shares) for name in shares[0]}
    model.zero_grad()
    loss = 0.0
    for batch in batches:
        term = model(batch, totals)["loss"]
        term.backward()
        loss += term.item()
    return loss, [p.grad.clone() for p in model.parameters()]


def test_loss_and_gradients_do_not_depend_on_micro_batches(smoke_profile, dataset):
    model = objective(smoke_profile)
    samples = [dataset[i, 3] for i in range(8)]
    loss, gradients = loss_and_gradients(model, samples, 8)
    assert loss > 0 and any(g.abs().max() > 1e-3 for g in gradients)
    for micro in (1, 2, 4):
        found, parts = loss_and_gradients(model, samples, micro)
        assert found == pytest.approx(loss, rel=1e-4)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(parts, gradients))


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_targets_are_instance_or_semantic_maps(smoke_profile, dataset, fraction):
    batch = collate([dataset[i] for i in range(6)])
    target = objective(smoke_profile, semantic_fraction=fraction).target(batch)
    assert torch.equal(target, batch["semantic"] if fraction else batch["ids"])


def test_the_mixture_has_its_share_and_depends_on_image_and_visit_alone(smoke_profile, dataset):
    model = objective(smoke_profile, semantic_fraction=0.25)
    chosen = []
    for visit in range(40):
        batch = collate([dataset[i, visit] for i in range(5)])
        target = model.target(batch)
        chosen += [torch.equal(t, s) for t, s in zip(target, batch["semantic"])]
        reverse = collate([dataset[i, visit] for i in (4, 2)])
        assert torch.equal(model.target(reverse), target[[4, 2]])
    assert 0.15 < sum(chosen) / len(chosen) < 0.35


def test_a_batch_of_void_has_no_loss_and_disturbs_nothing(smoke_profile, dataset):
    model = objective(smoke_profile)
    sample = dataset[0]
    empty = sample | {key: torch.zeros_like(sample[key]) for key in ("ids", "semantic")}
    loss, gradients = loss_and_gradients(model, [empty], 1)
    assert loss == 0 and all((g == 0).all() for g in gradients)


def test_terms_add_up_to_the_loss(smoke_profile, dataset):
    model = objective(smoke_profile)
    batch = collate([dataset[i] for i in range(4)])
    terms = model(batch, model.normalisers(batch))
    assert set(terms) == {"loss", "cross_entropy", "bce", "dice"}
    assert terms["loss"].item() == pytest.approx(sum(terms[k].item() for k in ("cross_entropy", "bce", "dice")))
    # untrained, each term is about what ignorance costs: log 16 classes, log 2, and half a mask
    assert terms["cross_entropy"].item() == pytest.approx(torch.tensor(16.0).log().item(), rel=0.5)
    assert 0.3 < terms["bce"].item() < 2 and 0.3 < terms["dice"].item() <= 1


def test_training_is_repeatable_and_makes_progress(smoke_run, smoke_profile, dataset, tmp_path):
    losses = []
    again, record = train_autoencoder(
        smoke_profile, dataset, tmp_path, on_log=lambda entry: losses.append(entry["loss"])
    )
    expected = smoke_run.autoencoder.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    assert record.final_loss == smoke_run.records[0].final_loss == losses[-1]
    assert sum(losses[3:]) < sum(losses[:3])


def test_the_saved_autoencoder_is_the_trained_one(smoke_run):
    loaded = MaskAutoencoder.from_pretrained(smoke_run.folder / "autoencoder" / "autoencoder")
    batch = collate([smoke_run.dataset[i] for i in range(3)])
    with torch.no_grad():
        assert torch.equal(loaded.to_latents(batch["ids"]), smoke_run.autoencoder.to_latents(batch["ids"]))
    assert loaded.config.latent_scale == smoke_run.autoencoder.config.latent_scale != 1


def test_scaled_latents_have_unit_variance(smoke_run):
    batch = collate([smoke_run.dataset[i] for i in range(len(smoke_run.dataset))])
    with torch.no_grad():
        latents = smoke_run.autoencoder.to_latents(batch["ids"])
    assert latents.std().item() == pytest.approx(1, rel=1e-3)
    assert measure_latent_std(smoke_run.autoencoder, smoke_run.dataset, images=4) == pytest.approx(
        (latents[:4] / smoke_run.autoencoder.config.latent_scale).std(correction=0).item(), rel=1e-4
    )


def test_a_scale_of_the_profile_is_kept(smoke_profile, dataset, tmp_path):
    settings = dataclasses.replace(
        smoke_profile.autoencoder,
        latent_scale=0.18215,
        training=dataclasses.replace(smoke_profile.autoencoder.training, steps=1, warmup_steps=0),
    )
    with pytest.warns(UserWarning, match=r"set autoencoder\.latent_scale to"):
        autoencoder, _ = train_autoencoder(dataclasses.replace(smoke_profile, autoencoder=settings), dataset, tmp_path)
    assert autoencoder.config.latent_scale == 0.18215
    recorded = MaskAutoencoder.from_pretrained(tmp_path / "autoencoder").config.latent_std
    assert recorded == measure_latent_std(autoencoder, dataset)


@pytest.mark.parametrize(("scale", "warned"), [(1.0, False), (1.6, False), (0.4, True), (3.0, True)])
def test_latents_far_from_the_noise_s_scale_are_warned_of(scale, warned, recwarn):
    warn_of_latent_scale(
        MaskAutoencoder(num_ids=4, channels=(32,), num_upscalers=0, latent_scale=scale, latent_std=1.0)
    )
    assert any(f"{scale:.3g}, while the noise schedule is made for 1" in str(w.message) for w in recwarn) is warned


def test_more_classes_than_ids_are_named_before_training(smoke_profile, dataset, tmp_path):
    few = dataclasses.replace(smoke_profile, data=dataclasses.replace(smoke_profile.data, num_ids=8))
    with pytest.raises(InputError, match=rf"{dataset.num_classes} classes.*data\.num_ids 8"):
        train_autoencoder(few, dataset, tmp_path)
