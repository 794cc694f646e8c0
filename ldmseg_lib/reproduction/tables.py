"""Every table of a run: a pure function from result records to a DataFrame, and an entry in TABLES.

Metrics are fractions in result records and percent in tables. The records are those of `StageRun.finish`, by stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..experiments.components import tables as component_tables
from ..experiments.denoising_steps import tables as step_tables
from ..experiments.encodings import tables as encoding_tables
from ..experiments.few_steps import tables as few_step_tables
from ..experiments.inpainting import tables as inpainting_tables
from ..experiments.mask2former import tables as mask2former_tables
from ..experiments.multitask import tables as multitask_tables
from ..experiments.own_dataset import tables as own_dataset_tables
from ..experiments.records import Records, percent, quality_columns
from ..experiments.supplement import supplement


@dataclass(frozen=True)
class Table:
    """One table of a run. It is made when all of `stages` have a result."""

    name: str
    title: str
    stages: tuple[str, ...]
    build: Callable[[Records], pd.DataFrame]
    decimals: Mapping[str, int] = field(default_factory=dict)  # per column; 1 where not given
    in_results: bool = True
    findings: Callable[[Records], Sequence[str]] | None = None  # what the paper found and we did, in sentences
    also: tuple[str, ...] = ()  # stages whose results it shows too, where there are any


def panoptic_quality(results: Records) -> pd.DataFrame:
    """The four ways of post-processing, beside Table S2 at the same number of denoising steps.

    Notebook 05's metrics hold `variants`: for each of "arg max", "+ threshold", "+ area" and "+ both", in this order,
    `{"name", "class_agnostic", "panoptic", "miou"}`; the two in the middle are what `PanopticQuality.compute` returns.
    """
    record = results["05_panoptic_evaluation"]
    rows = [
        {"predictions": variant["name"], **quality_columns(variant, things_and_stuff=True)}
        for variant in record["metrics"]["variants"]
    ]
    paper = paper_steps(record)
    rows.append(
        {
            "predictions": f"paper, COCO, + both, {paper['iters']:.0f} steps",
            **{f"class-agn. {key.upper()}": paper[f"class_agnostic_{key}"] for key in ("pq", "sq", "rq")},
            "mIoU": paper["miou"],
            **{key.upper(): paper[key] for key in ("pq", "sq", "rq")},
        }
    )
    return pd.DataFrame(rows)


def paper_steps(record: Mapping[str, Any]) -> pd.Series:
    """The row of Table S2 with as many denoising steps as `record` used, or the nearest number of them."""
    steps, table = record["parameters"]["evaluation"]["num_inference_steps"], supplement("table_s2")
    return table.iloc[(table["iters"] - steps).abs().argmin()]


def ours_and_paper(results: Records) -> pd.DataFrame:
    """One line a quantity that the supplement reports and this run measured."""
    rows: list[dict[str, Any]] = []

    def add(quantity: str, ours: float | None, paper: Any, place: str) -> None:
        rows.append({"quantity": quantity, "ours": ours, "paper": paper, "place in the supplement": place})

    if "02_autoencoder" in results:
        quality = results["02_autoencoder"]["metrics"]["reconstruction"]
        paper = supplement("table_s1").set_index("encoding").loc["bit encoding"]
        add("autoencoder, class-agnostic PQ", percent(quality["pq"]), paper["pq"], "Table S1, bit encoding")
        add("autoencoder, mIoU", percent(quality["miou"]), paper["miou"], "Table S1, bit encoding")
    if "05_panoptic_evaluation" in results:
        record = results["05_panoptic_evaluation"]
        best, paper = record["metrics"]["variants"][-1], paper_steps(record)
        place = f"Table S2, {paper['iters']:.0f} iterations"
        for key in ("pq", "sq", "rq"):
            agnostic = percent(best["class_agnostic"]["All"][key])
            add(f"class-agnostic {key.upper()}", agnostic, paper[f"class_agnostic_{key}"], place)
        add("mIoU", percent(best["miou"]), paper["miou"], place)
        for key in ("pq", "sq", "rq"):
            add(f"panoptic {key.upper()}", percent(best["panoptic"]["All"][key]), paper[key], place)
        for group in ("Things", "Stuff"):
            add(f"panoptic PQ, {group.lower()}", percent(best["panoptic"][group]["pq"]), None, "")
    if multitask_tables.STAGE in results:
        joint, published = multitask_tables.joint_pq(results)
        add("panoptic PQ, multi-task", joint, published, "A, Multi-Task Setup (number of a secondary source)")
    return pd.DataFrame(rows)


TABLES = {
    table.name: table
    for table in (
        Table(
            name="panoptic_quality",
            title="Panoptic quality by post-processing",
            stages=("05_panoptic_evaluation",),
            build=panoptic_quality,
        ),
        Table(
            name="mask2former",
            title="LDMSeg and Mask2Former on plain ViTs",
            stages=mask2former_tables.STAGES,
            build=mask2former_tables.mask2former,
            decimals=mask2former_tables.TIME_DECIMALS,
            findings=mask2former_tables.mask2former_findings,
        ),
        Table(
            name="few_steps",
            title="Few denoising steps: distilled student and teacher",
            stages=(few_step_tables.STAGE,),
            build=few_step_tables.few_steps,
            decimals={"time [s]": 3},
            findings=few_step_tables.few_steps_findings,
        ),
        Table(
            name="sample_consensus",
            title="Several samples of one image",
            stages=(few_step_tables.STAGE,),
            build=few_step_tables.sample_consensus,
            findings=few_step_tables.sample_consensus_findings,
        ),
        Table(
            name="agreement_levels",
            title="Accuracy of pixels by the number of agreeing samples",
            stages=(few_step_tables.STAGE,),
            build=few_step_tables.agreement_levels,
            decimals={"samples that agree": 0},
            in_results=False,
        ),
        Table(
            name="mask_inpainting",
            title="Mask inpainting, class-agnostic PQ, mean over drop rates",
            stages=(inpainting_tables.STAGE,),
            build=inpainting_tables.mask_inpainting,
            findings=inpainting_tables.mask_inpainting_findings,
        ),
        Table(
            name="mask_inpainting_rates",
            title="Mask inpainting, class-agnostic PQ by block size and drop rate (all in percent)",
            stages=(inpainting_tables.STAGE,),
            build=inpainting_tables.mask_inpainting_rates,
            decimals={"rate": 0},
            in_results=False,
        ),
        Table(
            name="table_s1",
            title="Table S1. Reconstruction by the encoding of ids",
            stages=(encoding_tables.STAGE,),
            build=encoding_tables.table_s1,
            decimals={"margin": 3},
            findings=encoding_tables.table_s1_findings,
        ),
        Table(
            name="color_palettes",
            title="Colour encodings by palette",
            stages=(encoding_tables.STAGE,),
            build=encoding_tables.color_palettes,
            decimals={"margin": 3},
            findings=encoding_tables.color_palettes_findings,
        ),
        Table(
            name="table_s2",
            title="Table S2. Quality and time by the number of denoising steps",
            stages=(step_tables.STAGE,),
            build=step_tables.table_s2,
            decimals={"time [s]": 3, "paper time [s]": 3},
            findings=step_tables.table_s2_findings,
        ),
        Table(
            name="inference_time",
            title="Latency per image by component",
            stages=(step_tables.STAGE,),
            build=step_tables.inference_time,
            decimals=step_tables.TIME_DECIMALS,
            findings=step_tables.inference_time_findings,
            in_results=False,
        ),
        Table(
            name="sampler_frontier",
            title="Quality and latency per image by sampler",
            stages=(step_tables.STAGE,),
            build=step_tables.sampler_frontier,
            decimals={"time [s]": 3},
            findings=step_tables.sampler_frontier_findings,
            in_results=False,
        ),
        Table(
            name="denoising_trajectory",
            title="Changes between denoising steps of one sample, in percent (supplement B, Number of Denoising Steps)",
            stages=(step_tables.STAGE,),
            build=step_tables.denoising_trajectory,
            findings=step_tables.denoising_trajectory_findings,
        ),
        Table(
            name="table_s3",
            title="Table S3. Image encoder, scheduler and EMA",
            stages=(component_tables.STAGE,),
            build=component_tables.table_s3,
            findings=component_tables.table_s3_findings,
        ),
        Table(
            name="image_encoders",
            title="Image encoders and linear probes of their features, in percent",
            stages=(component_tables.STAGE,),
            build=component_tables.image_encoders,
            decimals={"steps": 0},
            findings=component_tables.image_encoders_findings,
            in_results=False,
        ),
        Table(
            name="loss_components",
            title="Components of the loss, in percent",
            stages=(component_tables.STAGE,),
            build=component_tables.loss_components,
            findings=component_tables.loss_components_findings,
        ),
        Table(
            name="id_orders",
            title="Order of ids by the number of denoising steps, in percent",
            stages=(component_tables.STAGE,),
            build=component_tables.id_orders,
            findings=component_tables.id_orders_findings,
        ),
        Table(
            name="id_order_inpainting",
            title="Order of ids in inpainting, class-agnostic PQ",
            stages=(component_tables.STAGE,),
            build=component_tables.id_order_inpainting,
            decimals={"rate": 0},
            in_results=False,
        ),
        Table(
            name="latent_resolution",
            title="Segment size and resolution of the latents, class-agnostic PQ and recall in percent",
            stages=(component_tables.STAGE,),
            build=component_tables.latent_resolution,
            decimals={"segments": 0},
            findings=component_tables.latent_resolution_findings,
        ),
        Table(
            name="own_dataset",
            title="A model trained on one's own data set, on its validation images",
            stages=(own_dataset_tables.STAGE,),
            build=own_dataset_tables.own_dataset,
        ),
        Table(
            name="multitask",
            title="Instance, semantic and depth from one model (PQ, mIoU, AbsRel, delta1 in percent)",
            stages=(multitask_tables.STAGE,),
            build=multitask_tables.multitask,
            decimals=dict.fromkeys(multitask_tables.SAMPLES, 0),
            findings=multitask_tables.multitask_findings,
        ),
        Table(
            name="ours_and_paper",
            title="This run beside the supplement",
            stages=("02_autoencoder",),
            also=("05_panoptic_evaluation", multitask_tables.STAGE),
            build=ours_and_paper,
        ),
    )
}
