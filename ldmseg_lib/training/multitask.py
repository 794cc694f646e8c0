"""Multi-task training: the one diffusion training again, from a trained model and with more tasks (supplement A)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..core.profiles import Profile


def multitask_profile(profile: Profile, tasks: Sequence[str] | None = None) -> Profile:
    """`profile` with the multi-task section's tasks and training in the place of the diffusion section's.

    Args:
        profile: the settings.
        tasks: a part of the section's tasks: trained for fewer steps, so that each task has as many samples as it has
            beside the others. None: all of them.
    """
    shares = profile.multitask.tasks
    chosen = {task: shares[task] for task in shares if tasks is None or task in tasks}
    part = sum(chosen.values()) / sum(shares.values())
    return _with(profile, chosen, steps=max(1, round(profile.multitask.training.steps * part)))


def added_task_profile(profile: Profile, task: str) -> Profile:
    """`profile` for teaching a multi-task model one more task, while the others keep their proportions."""
    settings = profile.multitask
    scale = (1 - settings.added_share) / sum(settings.tasks.values())
    shares = {name: share * scale for name, share in settings.tasks.items()} | {task: settings.added_share}
    return _with(profile, shares, steps=settings.added_steps)


def samples_per_task(*profiles: Profile) -> dict[str, int]:
    """How many training samples each task has had, in expectation, after the diffusion trainings of `profiles`."""
    counts: dict[str, float] = {}
    for profile in profiles:
        training, shares = profile.diffusion.training, profile.diffusion.tasks
        for task, share in shares.items():
            seen = training.steps * training.batch_size * share / sum(shares.values())
            counts[task] = counts.get(task, 0.0) + seen
    return {task: round(count) for task, count in counts.items()}


def _with(profile: Profile, tasks: Mapping[str, float], *, steps: int) -> Profile:
    training = replace(profile.multitask.training, steps=steps)
    return replace(profile, diffusion=replace(profile.diffusion, tasks=dict(tasks), training=training))
