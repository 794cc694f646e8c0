"""The loop: the same training however it is cut into micro-batches, and whatever interrupts it."""

import itertools
import json
import math
import os
import signal

import psutil
import pytest
import torch
from torch import nn

from ldmseg_lib.core.errors import CheckpointError, InputError, ProfileError
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.training import checkpoint, loop
from ldmseg_lib.training.checkpoint import CheckpointFolder
from ldmseg_lib.training.loop import EXIT_RESUMABLE, learning_rate, train
from ldmseg_lib.training.optimizers import build_optimizer
from tests.training.toy import Pictures, Smoothing, collate, settings, weights


class Stop(Exception):
    """A power cut."""


def run(
    folder, *, objective=None, dataset=None, on_log=None, seed=0, identity=None, workers=0, measure=None, **changes
):
    """Train the toy; returns (objective, record, ema)."""
    objective = objective or Smoothing()
    record, ema = train(
        objective,
        dataset or Pictures(),
        settings(**changes),
        folder,
        seed=seed,
        collate=collate,
        workers=workers,
        on_log=on_log,
        measure=measure,
        identity=identity,
    )
    return objective, record, ema


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stop_at(step: int):
    def on_log(entry):
        if entry["step"] == step:
            raise Stop

    return on_log


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A training that nothing disturbed: (folder, weights, EMA's parameters, record)."""
    folder = tmp_path_factory.mktemp("unbroken")
    objective, record, ema = run(folder)
    return folder, weights(objective), [p.clone() for p in ema.shadow_params], record


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


def test_it_learns(unbroken):
    folder, trained, _, record = unbroken
    losses = [entry["loss"] for entry in metrics(folder)]
    assert losses[-1] < 0.8 * losses[0]
    assert not same(trained, weights(Smoothing()))
    assert (record.steps, record.images) == (8, 32) and record.final_loss == losses[-1]
    assert record.parameters == sum(p.numel() for p in Smoothing().parameters())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(unbroken, tmp_path):
    torch.rand(7)
    assert same(weights(run(tmp_path / "same")[0]), unbroken[1])
    assert not same(weights(run(tmp_path / "other", seed=1)[0]), unbroken[1])


def test_every_image_is_seen_once_an_epoch(tmp_path):
    dataset = Pictures(8)
    run(tmp_path, dataset=dataset, steps=6)
    assert sorted(dataset.seen) == [(index, visit) for index in range(8) for visit in range(3)]


@pytest.mark.parametrize("micro", [1, 2, 64])
def test_accumulation_changes_neither_loss_nor_weights(unbroken, tmp_path, micro):
    """Images weigh differently, so that a mean of micro-batch means would give another gradient."""
    objective, _, _ = run(tmp_path, micro_batch_size=micro)
    for name, value in weights(objective).items():
        assert torch.allclose(value, unbroken[1][name], atol=2e-5), name
    for entry, expected in zip(metrics(tmp_path), metrics(unbroken[0]), strict=True):
        assert entry["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert entry["plain"] == pytest.approx(expected["plain"], abs=1e-5)


def test_worker_processes_change_nothing(unbroken, tmp_path):
    assert same(weights(run(tmp_path, workers=1)[0]), unbroken[1])


@pytest.mark.parametrize("step", [1, 2, 5, 7])
def test_a_training_that_failed_goes_on_to_the_same_weights(unbroken, tmp_path, step):
    """Checkpoints are written after steps 2, 4 and 6; a failure costs the steps since the last."""
    with pytest.raises(Stop):
        run(tmp_path, on_log=stop_at(step))
    dataset = Pictures()
    objective, record, ema = run(tmp_path, dataset=dataset)
    assert len(dataset.seen) == 4 * (8 - (step - 1) // 2 * 2)
    assert same(weights(objective), unbroken[1])
    assert all(torch.equal(a, b) for a, b in zip(ema.shadow_params, unbroken[2]))
    assert record.final_loss == unbroken[3].final_loss
    lines = metrics(tmp_path)
    assert [entry["step"] for entry in lines] == list(range(1, 9))
    assert [entry["loss"] for entry in lines] == [entry["loss"] for entry in metrics(unbroken[0])]


def test_it_goes_on_after_many_failures(unbroken, tmp_path):
    for step in (3, 3, 5, 7, 8):
        with pytest.raises(Stop):
            run(tmp_path, on_log=stop_at(step))
    assert same(weights(run(tmp_path)[0]), unbroken[1])


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(unbroken, tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, on_log=stop_at(7))
    (tmp_path / "checkpoints" / "step-00000006" / "tensors.safetensors").write_bytes(b"half")
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        objective, _, _ = run(tmp_path)
    assert same(weights(objective), unbroken[1])


def test_a_finished_training_is_not_done_again(unbroken, tmp_path):
    run(tmp_path)
    dataset = Pictures()
    objective, record, ema = run(tmp_path, dataset=dataset)
    assert dataset.seen == [] and same(weights(objective), unbroken[1])
    assert all(torch.equal(a, b) for a, b in zip(ema.shadow_params, unbroken[2]))
    assert (record.steps, record.final_loss) == (unbroken[3].steps, unbroken[3].final_loss)
    assert record.seconds > 0


def test_the_rest_of_a_half_written_line_of_metrics_is_dropped(unbroken, tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, on_log=stop_at(5))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    run(tmp_path)
    assert [entry["step"] for entry in metrics(tmp_path)] == list(range(1, 9))


def test_what_may_change_between_sessions_does_not_hinder(unbroken, tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, on_log=stop_at(5))
    objective, _, _ = run(tmp_path, checkpoint_every=3, keep_checkpoints=1, log_every=5)
    assert same(weights(objective), unbroken[1])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.5}, "learning_rate is 0.01 there and 0.5 here"),
        ({"batch_size": 2}, "batch_size is 4 there and 2 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"ema_decay": None}, "ema_decay is 0.9 there and None here"),
        ({"identity": {"diffusion": {"prediction_type": "v"}}}, "diffusion.prediction_type is None there and 'v' here"),
        ({"dataset": Pictures(11)}, "images is 10 there and 11 here"),
    ],
)
def test_checkpoints_of_another_training_are_refused_with_the_difference(tmp_path, changes, named):
    with pytest.raises(Stop):
        run(tmp_path, on_log=stop_at(3))
    with pytest.raises(CheckpointError) as error:
        run(tmp_path, **changes)
    assert named in str(error.value) and str(tmp_path) in str(error.value)


def test_checkpoints_of_another_width_are_refused(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, on_log=stop_at(3))
    with pytest.raises(CheckpointError, match=r"net\.0\.bias.*\(4,\) in the checkpoint and \(6,\)"):
        run(tmp_path, objective=Smoothing(width=6))


def test_sigterm_saves_and_exits_with_75(unbroken, tmp_path, capsys):
    """Batch systems take 75 as "try again later"."""
    before = signal.getsignal(signal.SIGTERM)

    def preempt(entry):
        if entry["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        run(tmp_path, on_log=preempt)
    assert left.value.code == EXIT_RESUMABLE == 75
    assert "saved at step 5" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "step-00000005").is_dir()
    assert signal.getsignal(signal.SIGTERM) == before
    dataset = Pictures()
    objective, _, _ = run(tmp_path, dataset=dataset)
    assert len(dataset.seen) == 4 * 3 and same(weights(objective), unbroken[1])


def test_sigterm_in_the_last_step_ends_as_usual(unbroken, tmp_path):
    def preempt(entry):
        if entry["step"] == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    assert same(weights(run(tmp_path, on_log=preempt)[0]), unbroken[1])


def test_a_full_disk_stops_the_training_with_the_last_good_checkpoint(unbroken, tmp_path, monkeypatch):
    real, calls = checkpoint.save_file, []

    def full_at_the_second(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full_at_the_second)
    with pytest.raises(CheckpointError, match=r"last good one is .*step-00000002"):
        run(tmp_path)
    assert same(weights(run(tmp_path)[0]), unbroken[1])


def test_a_disk_that_is_full_for_metrics_is_named(tmp_path):
    metrics_file = tmp_path / "metrics.jsonl"

    def full(entry):
        metrics_file.unlink()
        metrics_file.mkdir()

    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: cannot be written .* goes on from its last checkpoint"):
        run(tmp_path, on_log=lambda entry: full(entry) if entry["step"] == 3 else None)


def test_the_best_by_metric_is_kept_and_measuring_changes_nothing(unbroken, tmp_path):
    """The averaged weights are judged, in evaluation mode, and those in training come back."""
    values, judged = iter([0.3, 0.9, 0.1, 0.2]), []

    def measure(objective):
        assert not objective.training
        judged.append(weights(objective)["trained.net.0.bias"])
        torch.rand(5)
        return next(values)

    objective, _, ema = run(tmp_path, measure=measure, keep_checkpoints=1)
    assert same(weights(objective), unbroken[1])
    kept = CheckpointFolder(tmp_path / "checkpoints")
    assert kept.steps() == [4, 8] and kept.metrics() == {4: 0.9, 8: 0.2}
    assert torch.equal(judged[-1], ema.shadow_params[1])


def test_a_metric_that_is_no_number_counts_as_none(tmp_path):
    run(tmp_path, measure=lambda _: math.nan, keep_checkpoints=1)
    assert CheckpointFolder(tmp_path / "checkpoints").metrics() == {}


def test_loader_processes_outlive_the_signal_to_stop(unbroken, tmp_path):
    """A batch system signals the whole process group; the last step and the checkpoint still need their pictures."""

    others = set(psutil.Process().children())  # of other tests in this process: a browser's driver, say

    def preempt(entry):
        if entry["step"] == 3:
            loaders = set(psutil.Process().children()) - others
            assert loaders
            for loader in loaders:
                loader.terminate()
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        run(tmp_path, on_log=preempt, workers=1)
    assert left.value.code == EXIT_RESUMABLE
    assert set(psutil.Process().children()) <= others, "they would be waited for, for ever, when this process ends"
    assert same(weights(run(tmp_path)[0]), unbroken[1])


def test_a_precision_that_the_device_lacks_is_named(tmp_path, monkeypatch):
    def refuse(**_):
        raise ValueError("bf16 mixed precision requires a supported device.")

    monkeypatch.setattr("ldmseg_lib.training.processes.Accelerator", refuse)
    with pytest.raises(ProfileError, match=r"training.precision 'bf16' does not work here"):
        run(tmp_path, precision="bf16")


def test_a_loss_scale_changes_nothing_and_is_gone_on_with(tmp_path, monkeypatch):
    """As fp16 has it on GPUs; here in fp32, where scaling by powers of two changes no bit of a gradient."""
    real, unclipped = loop.start_accelerator, {"gradient_clip": 1e9}
    plain, _, _ = run(tmp_path / "plain", **unclipped)

    def scaling(precision):
        accelerator = real(precision)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        return accelerator

    monkeypatch.setattr(loop, "start_accelerator", scaling)
    with pytest.raises(Stop):
        run(tmp_path / "scaled", on_log=stop_at(5), **unclipped)
    checkpoints = CheckpointFolder(tmp_path / "scaled" / "checkpoints")
    scaler = checkpoints.load()[1]["scaler"]
    assert scaler["scale"] == 2.0**11 and scaler["_growth_tracker"] == 1
    assert same(weights(run(tmp_path / "scaled", **unclipped)[0]), weights(plain))
    assert checkpoints.load()[1]["scaler"]["scale"] == 2.0**12


def test_the_learning_rate_warms_up_and_falls_as_a_cosine():
    plan = settings(steps=101, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.2)
    rates = [learning_rate(plan, step) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)], abs=0.01)
    assert max(rates) == 1.0 == rates[10]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.6) and rates[100] == pytest.approx(0.2)


def test_equal_rates_are_constant_after_the_warm_up():
    plan = settings(steps=20, warmup_steps=4, learning_rate=0.3, final_learning_rate=0.3)
    assert [learning_rate(plan, step) for step in range(4, 20)] == pytest.approx([0.3] * 16)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 5), (5, 5), (5, 4), (3, 0)])
def test_short_trainings_have_sensible_rates(steps, warmup):
    plan = settings(steps=steps, warmup_steps=warmup, learning_rate=1.0, final_learning_rate=0.1)
    assert all(0 < learning_rate(plan, step) <= 1 for step in range(steps))


def test_the_planned_rates_are_used(unbroken):
    rates = [entry["learning_rate"] for entry in metrics(unbroken[0])]
    assert rates == pytest.approx([learning_rate(settings(), step) for step in range(8)])


def test_gradients_are_clipped(tmp_path):
    """With a tiny bound and plain AdamW the first update is the same, so compare what AdamW averaged."""
    ends = {}
    for clip in (1e-3, 1e3):
        run(tmp_path / str(clip), steps=2, gradient_clip=clip, warmup_steps=0, checkpoint_every=1)
        parts, _ = CheckpointFolder(tmp_path / str(clip) / "checkpoints").load()
        ends[clip] = sum(v.square().sum() for k, v in parts["optimizer"].items() if k.endswith("/exp_avg")) ** 0.5
    assert ends[1e-3] <= 1e-3 * 0.2 and ends[1e3] > 10 * ends[1e-3]


@pytest.mark.parametrize("decay_norms", [True, False])
def test_weight_decay_of_one_dimensional_parameters(decay_norms):
    module = nn.ModuleDict({"net": nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))})
    groups = build_optimizer(module, settings(decay_norms=decay_norms)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == 4
    for parameter in module.parameters():
        assert decay[id(parameter)] == (0.05 if decay_norms or parameter.ndim > 1 else 0.0)


def test_frozen_parameters_stay(tmp_path):
    objective = Smoothing()
    objective.trained["net"][0].requires_grad_(False)
    before = weights(objective)
    _, record, _ = run(tmp_path, objective=objective)
    after = weights(objective)
    assert torch.equal(after["trained.net.0.weight"], before["trained.net.0.weight"])
    assert not torch.equal(after["trained.net.2.weight"], before["trained.net.2.weight"])
    assert record.parameters == sum(p.numel() for p in objective.trained["net"][2].parameters())


def test_the_average_is_that_of_the_steps(tmp_path):
    """min(decay, (1 + t) / (10 + t)) at step t, as diffusers and TensorFlow warm it up."""
    snapshots = [[p.detach().clone() for p in Smoothing().parameters()]]
    objective = Smoothing()

    def keep(_):
        snapshots.append([p.detach().clone() for p in objective.parameters()])

    _, _, ema = run(tmp_path, objective=objective, on_log=keep, ema_decay=0.15)
    average = snapshots[0]
    for number, parameters in enumerate(snapshots[1:]):
        decay = 0.0 if number == 0 else min(0.15, (1 + number) / (10 + number))
        average = [decay * a + (1 - decay) * p for a, p in zip(average, parameters)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ema.shadow_params, average))


def test_without_an_average_there_is_none(tmp_path):
    assert run(tmp_path, ema_decay=None, steps=2)[2] is None


def test_trainings_of_two_precisions_in_one_process(tmp_path):
    """A notebook trains the autoencoder and the diffusion model one after the other."""
    plain, _, _ = run(tmp_path / "fp32")
    half, _, _ = run(tmp_path / "bf16", precision="bf16")
    names = weights(plain)
    assert not same(weights(half), names)
    assert all(value.dtype == torch.float32 for value in weights(half).values())
    assert all(torch.allclose(value, names[name], atol=0.05) for name, value in weights(half).items())
    with torch.no_grad():
        image = torch.randn(1, 3, 6, 6)
        assert half.trained["net"](image).dtype == torch.float32


def test_bf16_goes_on_to_the_same_weights(tmp_path):
    whole, _, _ = run(tmp_path / "whole", precision="bf16")
    with pytest.raises(Stop):
        run(tmp_path / "cut", precision="bf16", on_log=stop_at(5))
    assert same(weights(run(tmp_path / "cut", precision="bf16")[0]), weights(whole))


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    class Diverging(Smoothing):
        def forward(self, batch, totals):
            self.calls = getattr(self, "calls", 0) + 1
            terms = super().forward(batch, totals)
            return terms | {"loss": terms["loss"] * (math.nan if self.calls > 4 else 1)}

    with pytest.raises(InputError, match="loss is nan at step 5"):
        run(tmp_path, objective=Diverging())
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]


def test_a_loss_that_is_no_number_is_never_saved(tmp_path):
    class Diverging(Smoothing):
        def forward(self, batch, totals):
            terms = super().forward(batch, totals)
            return terms | {"loss": terms["loss"] * math.nan}

    with pytest.raises(InputError, match="loss is nan at step 2"):
        run(tmp_path, objective=Diverging(), log_every=5)
    assert not (tmp_path / "checkpoints").exists()


def test_a_batch_that_does_not_divide_is_named(tmp_path):
    with pytest.raises(ProfileError, match="batch of 4"):
        run(tmp_path, micro_batch_size=3)


def test_profiles_settings_that_shape_a_training_are_part_of_its_identity():
    profile, other = Profile.load("smoke"), Profile.load("smoke", "diffusion.prediction_type=epsilon,data.workers=3")
    mine, theirs = (loop.seen_settings(p, "diffusion") for p in (profile, other))
    assert mine["data"] == theirs["data"] and mine["diffusion"] != theirs["diffusion"]
    assert "training" not in mine["diffusion"] and "denoiser" not in mine


def test_metrics_are_means_over_the_steps_between(unbroken, tmp_path):
    run(tmp_path, log_every=3)
    losses = [entry["loss"] for entry in metrics(unbroken[0])]
    lines = metrics(tmp_path)
    assert [entry["step"] for entry in lines] == [3, 6, 8]
    assert [entry["loss"] for entry in lines] == pytest.approx(
        [sum(losses[:3]) / 3, sum(losses[3:6]) / 3, sum(losses[6:]) / 2], abs=1e-6
    )
    assert all(entry["images_per_second"] > 0 for entry in lines)
