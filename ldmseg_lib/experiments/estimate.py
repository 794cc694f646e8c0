"""What a profile will cost: FLOPs, memory per GPU and hours, counted on its networks without weights, data or a GPU.

    python -m ldmseg_lib.training --estimate --profile paper

Every network of the profile is built and a training step of each goes through, so that a setting that does not fit
another is found here and not on the cluster.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from tqdm.auto import tqdm

from ..core.files import write_json
from ..core.profiles import Profile
from ..core.sections import TrainingProfile
from ..models.autoencoder import build_autoencoder
from .components.rows import TABLE_S3, Variant, component_rows, variant_profile
from .encodings.study import TABLE_S1, cropped, encoding_profile
from .fake_networks import TRAINED_HERE, DiffusionNetworks, autoencoder_step, mask2former_step
from .step_cost import FLOAT32, StepCost, without_content

GIB = 2**30
CARD_GIB = 40  # the paper's A100s
RESERVE_GIB = 3  # what is not counted: CUDA's context, NCCL's buffers, gaps between an allocator's blocks
DEVICES = 8
# Peak rates of dense products in 16 bits, NVIDIA's data sheets, in FLOP/s.
PEAKS = {"A100": 312e12, "H200": 989e12}
# Shares of that peak that such trainings reach; the hours are given for both.
UTILISATION = (0.3, 0.5)
# Of COCO 2017, where the profile draws no scenes of its own.
VALIDATION_IMAGES = 5000


@dataclass(frozen=True)
class Work:
    """One item of a run: so many samples (images of a training, or predictions), each at so many FLOPs."""

    stage: str
    what: str
    samples: int
    flops: float  # of one sample

    @property
    def total(self) -> float:
        """FLOPs of all samples."""
        return self.samples * self.flops


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. `activations` is what the forward and backward pass take beyond weights and gradients."""

    weights: int
    gradients: int
    buckets: int  # in which gradients travel between processes
    adam: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


def work_of(profile: Profile) -> Iterator[Callable[[], Work]]:
    """The trainings and evaluations of a run of `profile`, each counted when it is called, `without_content`."""
    settings = profile.diffusion

    def autoencoder(
        stage: str, training: TrainingProfile, *, scalar: bool = False, of: Profile = profile, times: int = 1
    ) -> Work:
        network = build_autoencoder(of, scalar=scalar)
        cost = autoencoder_step(network, image_size=of.data.image_size, precision=training.precision)
        what = "depth autoencoder" if scalar else f"mask autoencoder, {of.autoencoder.encoding}"
        return Work(stage, what, training.steps * training.batch_size * times, cost.flops)

    def diffusion(
        stage: str, tasks: list[str], training: TrainingProfile, *, of: Profile = profile, times: int = 1
    ) -> Work:
        networks = DiffusionNetworks(of, tasks, checkpointing=training.gradient_checkpointing)
        flops: float = networks.step(1, precision=training.precision, self_condition=False).flops
        flops += of.diffusion.self_condition_probability * networks.forward(1, precision=training.precision).flops
        what = "diffusion: " + ", ".join(tasks) + (f" ({times} trainings)" if times > 1 else "")
        return Work(stage, what, training.steps * training.batch_size * times, flops)

    def components() -> Iterator[Callable[[], Work]]:
        # equal trainings are done once; those that cost alike are counted together
        section, alike = profile.components, dict[str, list[Profile]]()
        variants = [row.variant for row in component_rows(section)] + [Variant(name) for name, _, _ in TABLE_S3]
        for variant in {str(v): v for v in (*variants, Variant(other_latents=True))}.values():
            source = getattr(section, variant.encoder).pretrained or TRAINED_HERE
            changed = variant_profile(profile, variant, encoder=source)
            probability = changed.diffusion.self_condition_probability
            alike.setdefault(f"{variant.encoder} {variant.other_latents} {probability}", []).append(changed)
        for same in alike.values():
            one = same[0]
            yield functools.partial(
                diffusion, "07_components", list(one.diffusion.tasks), one.diffusion.training, of=one, times=len(same)
            )

    def sampling(stage: str, tasks: list[str], images: int | None, steps: int, *, times: int = 1) -> Work:
        networks = DiffusionNetworks(profile, tasks, checkpointing=False)
        one, rest = (
            found.flops for found in (networks.forward(1, precision="bf16"), networks.around(1, precision="bf16"))
        )
        there = profile.data.val_scenes or VALIDATION_IMAGES
        images = min(images or there, there) * times
        return Work(stage, f"sampling in {steps} steps", images, len(tasks) * steps * one + rest)

    def consistency() -> Work:
        section = profile.consistency
        networks = DiffusionNetworks(
            profile, list(settings.tasks), checkpointing=section.training.gradient_checkpointing
        )
        step = networks.step(1, precision=section.training.precision, self_condition=False).flops
        forward = networks.forward(1, precision=section.training.precision).flops
        samples = section.training.steps * section.training.batch_size
        # the teacher's path and the target; a teacher that is fed its estimates makes one before the path
        forwards = section.teacher_steps + 1 + (settings.self_condition_probability > 0)
        return Work("12_few_steps", "consistency distillation", samples, step + forwards * forward)

    def mask2former(kind: str) -> Work:
        training = profile.mask2former.training
        _, cost = mask2former_step(profile, kind, precision=training.precision)
        return Work("09_mask2former_baseline", f"Mask2Former, {kind}", training.steps * training.batch_size, cost.flops)

    tasks, evaluation = list(settings.tasks), profile.evaluation
    yield lambda: autoencoder("02_autoencoder", profile.autoencoder.training)
    for encoding in (*TABLE_S1, *profile.encodings.palettes):
        changed = cropped(encoding_profile(profile, encoding))
        encodings = changed.encodings
        yield functools.partial(autoencoder, "03_encodings", encodings.training, of=changed, times=len(encodings.seeds))
    yield lambda: diffusion("04_diffusion", tasks, settings.training)
    yield lambda: sampling("05_panoptic_evaluation", tasks, evaluation.num_images, evaluation.num_inference_steps)
    steps = sum(profile.denoising_steps.counts)
    yield lambda: sampling("06_denoising_steps", tasks, profile.denoising_steps.num_images, steps)
    yield from components()
    yield lambda: autoencoder("08_multitask", profile.multitask.depth_autoencoder, scalar=True)
    for compared in (*profile.multitask.compared, tuple(profile.multitask.tasks)):
        yield functools.partial(diffusion, "08_multitask", list(compared), profile.multitask.training)
    for kind in ("mae", "dinov2"):
        yield functools.partial(mask2former, kind)
    section = profile.inpainting
    times = len(section.drop_rates) * len(section.block_sizes) * section.resamplings
    yield lambda: sampling(
        "10_mask_inpainting", tasks[:1], section.num_images, section.num_inference_steps, times=times
    )
    yield consistency


def memory_of(
    networks: DiffusionNetworks, training: TrainingProfile, peak: int, *, processes: int = DEVICES, shard: bool = False
) -> Memory:
    """Bytes on one of `processes` GPUs, for a step whose peak beyond weights is `peak`."""
    learned = sum(p.numel() for p in networks.all.parameters() if p.requires_grad) * FLOAT32
    weights = sum(p.numel() for p in networks.all.parameters()) * FLOAT32
    share = processes if shard else 1
    # whole gradients exist block by block only
    activations = max(0, peak - learned)
    gathered = _largest_block(networks.denoiser) if shard else 0
    return Memory(
        weights=weights - learned + learned // share + gathered,
        gradients=learned // share + gathered,
        buckets=learned if processes > 1 and not shard else 0,
        adam=2 * learned // share,
        average=learned // share if training.ema_decay else 0,
        activations=activations,
    )


def _largest_block(network: nn.Module) -> int:
    lists = [block for module in network.modules() if isinstance(module, nn.ModuleList) for block in module]
    return max((sum(p.numel() for p in block.parameters()) for block in lists), default=0) * FLOAT32


# Where the memory of a step is counted. With few images the gradients alone are the most; from there on it is a line.
_BATCHES = (1, 32, 64)


def peak_bytes(steps: Mapping[int, StepCost], images: int) -> int:
    """The peak at `images` images a GPU, from that at three numbers of them: the least, and two on the line."""
    least, low, high = sorted(steps)
    slope = (steps[high].peak_bytes - steps[low].peak_bytes) / (high - low)
    return max(steps[least].peak_bytes, round(steps[low].peak_bytes + (images - low) * slope))


@dataclass(frozen=True)
class MemoryCase:
    """One way to hold the diffusion training, and the largest micro-batch that fits a card with it."""

    checkpointing: bool
    shard: bool
    batch: int  # images a GPU that `memory` is for
    memory: Memory
    fits: int  # the largest number of images a GPU


def memory_cases(profile: Profile, *, card: float = (CARD_GIB - RESERVE_GIB) * GIB) -> list[MemoryCase]:
    """The diffusion training with and without checkpointing and sharding. To be called `without_content`."""
    training, cases = profile.diffusion.training, []
    share = max(1, training.batch_size // DEVICES)
    batch = min(training.micro_batch_size or share, share)
    for checkpointing in (True, False):
        networks = DiffusionNetworks(profile, list(profile.diffusion.tasks), checkpointing=checkpointing)
        condition = profile.diffusion.self_condition_probability > 0
        steps = {n: networks.step(n, precision=training.precision, self_condition=condition) for n in _BATCHES}
        for shard in (False, True):
            held = [memory_of(networks, training, peak_bytes(steps, n), shard=shard) for n in range(1, 1025)]
            fits = sum(memory.total <= card for memory in held)
            cases.append(MemoryCase(checkpointing, shard, batch, held[batch - 1], fits))
    return cases


def single_gpu_memory(profile: Profile) -> dict[str, Memory]:
    """By stage the largest diffusion training that its notebook does in one process. To be called `without_content`."""
    section, variant = profile.components, Variant(other_latents=True)
    source = getattr(section, variant.encoder).pretrained or TRAINED_HERE
    cases = {
        "07_components": (variant_profile(profile, variant, encoder=source), section.diffusion.training),
        "08_multitask": (profile, profile.multitask.training),
        "12_few_steps": (profile, profile.consistency.training),
    }
    found = {}
    for stage, (of, training) in cases.items():
        networks = DiffusionNetworks(of, list(of.diffusion.tasks), checkpointing=training.gradient_checkpointing)
        images = training.micro_batch_size or training.batch_size
        condition = stage != "12_few_steps" and of.diffusion.self_condition_probability > 0
        peak = networks.step(images, precision=training.precision, self_condition=condition).peak_bytes
        memory = memory_of(networks, training, peak, processes=1)
        if stage == "12_few_steps":
            # beside the student its running mean and the teacher
            others = 2 * FLOAT32 * sum(p.numel() for p in networks.denoiser.parameters())
            memory = dataclasses.replace(memory, weights=memory.weights + others)
        found[stage] = memory
    return found


def estimate(profile: Profile, *, progress: bool = True) -> tuple[list[Work], list[MemoryCase], dict[str, int]]:
    """The work of a run, the memory of its diffusion training, and the parameters of its networks."""
    with without_content():
        networks = DiffusionNetworks(profile, list(profile.diffusion.tasks), checkpointing=False)
        parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in networks.all.items()}
        items = [*work_of(profile)]
        work = [item() for item in tqdm(items, desc="counting", disable=not progress)]
        return work, memory_cases(profile), parameters


def hours(flops: float, device: str, *, devices: int, utilisation: float) -> float:
    """Of so many FLOPs on so many devices, at a share of their peak rate."""
    return flops / (devices * PEAKS[device] * utilisation) / 3600


def print_estimate(name: str, *, overrides: str | None = None, json_file: str | None = None) -> None:
    """Count, print, and write a JSON file if asked for."""
    profile = Profile.load(name, overrides)
    work, cases, parameters = estimate(profile)
    with without_content():
        alone = single_gpu_memory(profile)
    low, high = UTILISATION
    counted = ", ".join(f"{part} {count:,}" for part, count in parameters.items())
    print(f"Profile {profile.name}. Parameters: {counted}\n")
    print(f"{'stage':<24} {'what':<42} {'samples':>12} {'TFLOP each':>11} {'FLOP':>9}")
    for item in work:
        print(f"{item.stage:<24} {item.what:<42} {item.samples:>12,} {item.flops / 1e12:>11.3f} {item.total:>9.2e}")
    main = sum(item.total for item in work if item.stage in ("02_autoencoder", "04_diffusion"))
    everything = sum(item.total for item in work)
    print(f"\n{'hours, at so much of the peak rate':<40} {f'{high:.0%}':>10} {f'{low:.0%}':>10}")
    for what, flops in (("the model (02, 04)", main), ("all of the above", everything)):
        for device, devices in (("A100", DEVICES), ("H200", 1), ("H200", DEVICES)):
            times = [hours(flops, device, devices=devices, utilisation=share) for share in (high, low)]
            print(f"{f'{what}, {devices} x {device}':<40} {times[0]:>10,.1f} {times[1]:>10,.1f}")
    print(
        f"\nGiB on each of {DEVICES} GPUs in 04_diffusion, and the most images that one of {CARD_GIB} GiB takes at"
        f" once; {RESERVE_GIB} GiB are left for what is not counted (CUDA's context, NCCL, fragmentation)"
    )
    columns = [field.name for field in dataclasses.fields(Memory)]
    print(f"{'':<34} {' '.join(f'{column:>11}' for column in columns)} {'total':>7} {'most':>5}")
    for case in cases:
        how = ("" if case.checkpointing else "no ") + "checkpointing" + (", sharded" if case.shard else "")
        values = " ".join(f"{getattr(case.memory, column) / GIB:>11.1f}" for column in columns)
        print(f"{f'{how}, {case.batch} images':<34} {values} {case.memory.total / GIB:>7.1f} {case.fits:>5}")
    print("\nGiB on the one GPU of notebooks that train in one process, the largest diffusion training of each")
    for stage, memory in alone.items():
        values = " ".join(f"{getattr(memory, column) / GIB:>11.1f}" for column in columns)
        print(f"{stage:<34} {values} {memory.total / GIB:>7.1f}")
    if json_file:
        write_json(
            json_file,
            {
                "profile": profile.name,
                "parameters": parameters,
                "work": [dataclasses.asdict(item) | {"total": item.total} for item in work],
                "memory": [dataclasses.asdict(case) | {"total": case.memory.total} for case in cases],
                "memory_of_one_gpu": {
                    stage: dataclasses.asdict(memory) | {"total": memory.total} for stage, memory in alone.items()
                },
                "peak_flops": PEAKS,
            },
        )
