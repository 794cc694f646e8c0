"""Table S3, the loss components, the order of ids and the resolution of latents, from the result of notebook 07.

Its metrics are what `component_study.ComponentStudy.run` returns.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..findings import order_of_rows, scope
from ..records import Records, percent
from ..supplement import paper_number, supplement

STAGE = "07_components"
_KINDS = {"image_autoencoder": "reconstructive", "vit": "semantic"}
_GROUPS = {"PQ": "panoptic", "PQ things": "things", "PQ stuff": "stuff", "class-agn. PQ": "class_agnostic"}


def table_s3(results: Records) -> pd.DataFrame:
    """The four rows in percent, each with the paper's own image encoder and PQ beside ours."""
    metrics, paper = results[STAGE]["metrics"], supplement("table_s3")
    rows = []
    for ours, theirs in zip(metrics["table_s3"], paper.to_dict("records"), strict=True):
        rows.append(
            {
                "setup": theirs["setup"],
                "image encoder": metrics["encoders"][ours["encoder"]]["label"],
                "features": _KINDS[ours["encoder"]],
                "scheduler": ours["sampler"].upper(),
                "EMA": "yes" if ours["averaged"] else "no",
                **_quality(ours["scores"]),
                "paper's encoder": theirs["image_encoder"],
                "paper PQ": float(theirs["pq"]),
            }
        )
    return pd.DataFrame(rows)


def table_s3_findings(results: Records) -> list[str]:
    """The paper's order of the rows and ours, and what each component adds in both."""
    table = table_s3(results)
    names = [f"{r['features']}, {r['scheduler']}{', EMA' * (r['EMA'] == 'yes')}" for r in table.to_dict("records")]
    theirs, ours = ([float(value) for value in table[column]] for column in ("paper PQ", "PQ"))
    order = order_of_rows("PQ", paper=dict(zip(names, theirs)), ours=dict(zip(names, ours)))
    parts = ("EMA", "semantic instead of reconstructive features", "DDPM instead of DDIM")
    steps = [
        f"{part} {theirs[k + 1] - theirs[k]:+.1f} in the paper and {ours[k + 1] - ours[k]:+.1f} here"
        for k, part in enumerate(parts)
    ]
    record = results[STAGE]
    return [
        order,
        f"What each component adds to PQ: {'; '.join(steps)}.",
        f"{scope(record['profile'], record['metrics']['images'])} One seed: differences of a point or two say nothing.",
    ]


def image_encoders(results: Records) -> pd.DataFrame:
    """What the two image encoders are, where their weights come from, and what a linear map of their features tells."""
    rows = []
    for name, encoder in results[STAGE]["metrics"]["encoders"].items():
        training = encoder["training"] or {}
        rows.append(
            {
                "image encoder": encoder["label"],
                "meant as": _KINDS[name],
                "weights": encoder["weights"],
                "parameters": encoder["parameters"],
                "steps": training.get("steps"),
                "channels to the denoiser": encoder["out_channels"],
                "channels": encoder["probe"]["channels"],
                "class of a cell told": percent(encoder["probe"]["class_accuracy"]),
                "always the commonest": percent(encoder["probe"]["most_frequent"]),
                "pixels of a cell told": percent(encoder["probe"]["pixels_explained"]),
            }
        )
    return pd.DataFrame(rows)


def image_encoders_findings(results: Records) -> list[str]:
    """Whether the encoders are what they are meant as."""
    encoders = results[STAGE]["metrics"]["encoders"]
    probes = {_KINDS[name]: encoder["probe"] for name, encoder in encoders.items()}
    semantic, pixels = probes["semantic"], probes["reconstructive"]
    classes = _more(semantic["class_accuracy"], pixels["class_accuracy"])
    colours = _more(pixels["pixels_explained"], semantic["pixels_explained"])
    return [
        f"A linear map of the semantic features tells {classes} of the classes than one of the reconstructive features"
        f" ({percent(semantic['class_accuracy']):.1f} % and {percent(pixels['class_accuracy']):.1f} % of the cells of"
        f" held-out images), and the reconstructive features tell {colours} of the pixels"
        f" ({percent(pixels['pixels_explained']):.1f} % and {percent(semantic['pixels_explained']):.1f} % of their"
        f" variance), with {pixels['channels']} and {semantic['channels']} channels."
    ]


def loss_components(results: Records) -> pd.DataFrame:
    """Equal trainings but for one component of the loss, group by group, in percent."""
    rows = []
    for row in results[STAGE]["metrics"]["rows"]:
        rows.append({"component": row["group"], "row": row["name"], **_quality(row["scores"])})
    return pd.DataFrame(rows)


def loss_components_findings(results: Records) -> list[str]:
    """What each component is worth here, and in the paper where it says so."""
    record, sentences = results[STAGE], []
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in record["metrics"]["rows"]:
        groups.setdefault(row["group"], []).append(row)
    least, most = paper_number("loss_weight_gain_min"), paper_number("loss_weight_gain_max")
    for group, rows in groups.items():
        values = {row["name"]: percent(row["scores"]["panoptic"]["pq"]) or 0.0 for row in rows}
        ranked = sorted(values, key=lambda name: -values[name])
        text = f"{group[0].upper()}{group[1:]}: " + " > ".join(f"{name} ({values[name]:.1f})" for name in ranked) + "."
        if group == "loss of small timesteps":
            gain = values["lowered (the paper)"] - values["as it is"]
            verdict = "the sign agrees" if gain > 0 else "the sign does not agree"
            text += (
                f" The supplement says that lowering it gains {least:.1f} to {most:.1f} PQ at the same training; here"
                f" {gain:+.1f}: {verdict}."
            )
        sentences.append(text)
    return [*sentences, scope(record["profile"], record["metrics"]["images"])]


def id_orders(results: Records) -> pd.DataFrame:
    """Ids at random at every visit against ids in the order of positions, by the number of denoising steps, percent."""
    rows: dict[int, dict[str, Any]] = {}
    for row in results[STAGE]["metrics"]["id_orders"]:
        line = rows.setdefault(row["steps"], {"# iters": row["steps"]})
        for name, group in (("class-agn. PQ", "class_agnostic"), ("PQ", "panoptic")):
            line[f"{name}, {row['order']}"] = percent(row["scores"][group]["pq"])
    return pd.DataFrame(list(rows.values()))


def id_order_inpainting(results: Records) -> pd.DataFrame:
    """Class-agnostic PQ of inpainting by both, in the hidden region and of whole images, percent."""
    metrics = results[STAGE]["metrics"]["inpainting"]
    rows = []
    for place, condition in enumerate(next(iter(metrics.values()))):
        row: dict[str, Any] = {
            "cells": condition["block"],
            "px": condition["pixels"],
            "rate": percent(condition["rate"]),
        }
        for region, prefix in (("hidden", "hidden region: "), ("whole", "")):
            for order, conditions in metrics.items():
                row[f"{prefix}ids {order}"] = percent(conditions[place]["scores"]["inpainting"][region]["pq"])
            nearest = condition["scores"]["nearest known label"][region]["pq"]
            row[f"{prefix}nearest known label"] = percent(nearest)
        rows.append(row)
    return pd.DataFrame(rows)


def id_orders_findings(results: Records) -> list[str]:
    """At which step counts the order by position is better, by how much, and what it costs in inpainting."""
    table, inpainting = id_orders(results), id_order_inpainting(results)
    gains = {
        int(row["# iters"]): row["class-agn. PQ, by position"] - row["class-agn. PQ, random"]
        for row in table.to_dict("records")
        if row["class-agn. PQ, by position"] is not None and row["class-agn. PQ, random"] is not None
    }
    better = [str(steps) for steps, gain in gains.items() if gain > 0]
    text = "; ".join(f"{gain:+.1f} at {steps} step{'s' * (steps > 1)}" for steps, gain in gains.items())
    cost = _mean([*inpainting["hidden region: ids by position"]]) - _mean([*inpainting["hidden region: ids random"]])
    verdict = "costs" if cost < 0 else "gains"
    record = results[STAGE]
    return [
        "The paper gives ids at random and tries nothing else. Ids in the order of the segments' positions change"
        f" class-agnostic PQ by {text}: better at {', '.join(better) or 'no number of steps'}.",
        f"In inpainting, where known ids are arbitrary, the order {verdict} {abs(cost):.1f} PQ in the hidden region,"
        " the mean over these conditions.",
        scope(record["profile"], record["metrics"]["images"]),
    ]


def latent_resolution(results: Records) -> pd.DataFrame:
    """Class-agnostic PQ and recall by segment size: of the autoencoder alone and of predictions, for both latents."""
    latents = results[STAGE]["metrics"]["latents"]
    rows = []
    sizes = [(r, p) for entry in latents for r, p in [(entry["reconstruction"], entry["prediction"]["scores"])]]
    for place in range(len(sizes[0][0]["sizes"]) + 1):
        last = place == len(sizes[0][0]["sizes"])
        first = {} if last else sizes[0][0]["sizes"][place]
        row: dict[str, Any] = {"area, px": "all" if last else _range(first)}
        if not last:
            row["segments"] = int(first["tp"] + first["fn"])
        for entry, (reconstruction, prediction) in zip(latents, sizes):
            for name, scores in (("autoencoder", reconstruction), ("prediction", prediction)):
                values = scores["class_agnostic"] if last else scores["sizes"][place]
                row[f"f = {entry['factor']}, {name} PQ"] = percent(values["pq"])
                if not last:
                    row[f"f = {entry['factor']}, {name} recall"] = percent(values["recall"])
        rows.append(row)
    return pd.DataFrame(rows)


def latent_resolution_findings(results: Records) -> list[str]:
    """Whether small segments are missed, and whether finer latents find more of them."""
    record = results[STAGE]
    fine, coarse = sorted(record["metrics"]["latents"], key=lambda entry: entry["factor"])
    sentences = []
    for name, of in (("The autoencoder alone", "reconstruction"), ("The diffusion model", "prediction")):
        recalls = []
        for entry in (fine, coarse):
            scores = entry[of] if of == "reconstruction" else entry[of]["scores"]
            known = [size for size in scores["sizes"] if size["recall"] is not None]
            small, large = percent(known[0]["recall"]) or 0.0, percent(known[-1]["recall"]) or 0.0
            recalls.append((small, large, _range(known[0]), _range(known[-1])))
        (fine_small, fine_large, least, most), (coarse_small, coarse_large, *_) = recalls
        sentences.append(
            f"{name} finds {fine_small:.0f} % of the segments of {least} px and {fine_large:.0f} % of those of {most}"
            f" px with f = {fine['factor']}, {coarse_small:.0f} % and {coarse_large:.0f} % with f = {coarse['factor']}:"
            f" finer latents find {_more(fine_small, coarse_small)} of the smallest."
        )
    return [
        "Supplement C: the model can miss small background objects due to the projection to latent space.",
        *sentences,
        scope(record["profile"], record["metrics"]["images"]),
    ]


def _quality(scores: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: percent(scores[group]["pq"]) for name, group in _GROUPS.items()} | {"mIoU": percent(scores["miou"])}


def _more(first: float, second: float) -> str:
    return "more" if first > second else "no more"


def _mean(values: Sequence[float | None]) -> float:
    known = [float(value) for value in values if value is not None and value == value]
    return sum(known) / len(known) if known else 0.0


def _range(size: Mapping[str, Any]) -> str:
    return (
        f"{size['min_area']} to {size['max_area']}" if size["max_area"] is not None else f"{size['min_area']} and more"
    )
