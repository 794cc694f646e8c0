"""Table S3, the loss components, the order of ids and the resolution of latents, from the result of notebook 07.

Its metrics are what `study.ComponentStudy.run` returns.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..findings import order_of_rows, scope
from ..records import Records, percent
from ..supplement import paper_number, supplement

STAGE = "07_components"
_KINDS = {"image_autoencoder": "reconstructive", "vit": "semantic"}
_SIZE_SCORES = {"PQ": "pq", "recall": "recall"}
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
    """The two image encoders, the origin of their weights, and the scores of linear probes on their features."""
    return pd.DataFrame(
        [
            {
                "image encoder": encoder["label"],
                "features": _KINDS[name],
                "weights": encoder["weights"],
                "parameters": encoder["parameters"],
                "steps": (encoder["training"] or {}).get("steps"),
                "channels to the denoiser": encoder["out_channels"],
                "channels": encoder["probe"]["channels"],
                "class accuracy": percent(encoder["probe"]["class_accuracy"]),
                "most frequent class": percent(encoder["probe"]["most_frequent"]),
                "pixel R2": percent(encoder["probe"]["pixels_explained"]),
            }
            for name, encoder in results[STAGE]["metrics"]["encoders"].items()
        ]
    )


def image_encoders_findings(results: Records) -> list[str]:
    """Whether semantic features predict classes better, and reconstructive ones pixels."""
    probes = {_KINDS[name]: encoder["probe"] for name, encoder in results[STAGE]["metrics"]["encoders"].items()}
    semantic, pixels = probes["semantic"], probes["reconstructive"]
    classes = _more(semantic["class_accuracy"], pixels["class_accuracy"])
    variance = _more(pixels["pixels_explained"], semantic["pixels_explained"])
    return [
        f"A linear probe of the semantic features predicts {classes} of the classes than one of the reconstructive"
        f" features ({percent(semantic['class_accuracy']):.1f} % and {percent(pixels['class_accuracy']):.1f} % of the"
        f" cells of held-out images), and the reconstructive features explain {variance} of the pixels"
        f" ({percent(pixels['pixels_explained']):.1f} % and {percent(semantic['pixels_explained']):.1f} % of their"
        f" variance), with {pixels['channels']} and {semantic['channels']} channels."
    ]


def loss_components(results: Records) -> pd.DataFrame:
    """Trainings that differ in one component of the loss, group by group, in percent."""
    rows = results[STAGE]["metrics"]["rows"]
    return pd.DataFrame([{"component": row["group"], "row": row["name"], **_quality(row["scores"])} for row in rows])


def loss_components_findings(results: Records) -> list[str]:
    """What each component is worth here, and in the paper where it says so."""
    record, sentences = results[STAGE], []
    least, most = paper_number("loss_weight_gain_min"), paper_number("loss_weight_gain_max")
    for group, rows in itertools.groupby(record["metrics"]["rows"], key=lambda row: row["group"]):
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
    """Random ids and ids by position, by the number of denoising steps, in percent."""
    rows: dict[int, dict[str, Any]] = {}
    for row in results[STAGE]["metrics"]["id_orders"]:
        line = rows.setdefault(row["steps"], {"# iters": row["steps"]})
        line |= {f"{name}, {row['order']}": _quality(row["scores"])[name] for name in ("class-agn. PQ", "PQ")}
    return pd.DataFrame(list(rows.values()))


def id_order_inpainting(results: Records) -> pd.DataFrame:
    """Class-agnostic PQ of inpainting with both orders, in the hidden region and of whole images, in percent."""
    metrics = results[STAGE]["metrics"]["inpainting"]
    rows = []
    for place, condition in enumerate(next(iter(metrics.values()))):
        row = {"cells": condition["block"], "px": condition["pixels"], "rate": percent(condition["rate"])}
        for region, prefix in (("hidden", "hidden region: "), ("whole", "")):
            for order, conditions in metrics.items():
                row[f"{prefix}ids {order}"] = percent(conditions[place]["scores"]["inpainting"][region]["pq"])
            nearest = condition["scores"]["nearest known label"][region]["pq"]
            row[f"{prefix}nearest known label"] = percent(nearest)
        rows.append(row)
    return pd.DataFrame(rows)


def id_orders_findings(results: Records) -> list[str]:
    """At which step counts the order by position is better, by how much, and what it costs in inpainting."""
    table, inpainting = id_orders(results).set_index("# iters").astype(float), id_order_inpainting(results)
    gains = (table["class-agn. PQ, by position"] - table["class-agn. PQ, random"]).dropna()
    better = ", ".join(str(steps) for steps, gain in gains.items() if gain > 0)
    text = "; ".join(f"{gain:+.1f} at {steps} step{'s' * (steps != 1)}" for steps, gain in gains.items())
    hidden = inpainting[["hidden region: ids by position", "hidden region: ids random"]].astype(float).mean().fillna(0)
    cost = hidden.iloc[0] - hidden.iloc[1]
    verdict = "costs" if cost < 0 else "gains"
    record = results[STAGE]
    return [
        "The paper gives ids at random and tries nothing else. Ids in the order of the segments' positions change"
        f" class-agnostic PQ by {text}: better at {better or 'no number of steps'}.",
        f"In inpainting, where known ids are arbitrary, the order {verdict} {abs(cost):.1f} PQ in the hidden region,"
        " the mean over these conditions.",
        scope(record["profile"], record["metrics"]["images"]),
    ]


def latent_resolution(results: Records) -> pd.DataFrame:
    """Class-agnostic PQ and recall by segment size: of the autoencoder alone and of predictions, for both latents."""
    parts = {
        f"f = {entry['factor']}, {name}": scores
        for entry in results[STAGE]["metrics"]["latents"]
        for name, scores in (("autoencoder", entry["reconstruction"]), ("prediction", entry["prediction"]["scores"]))
    }
    rows = []
    for place, size in enumerate(next(iter(parts.values()))["sizes"]):
        row: dict[str, Any] = {"area, px": _range(size), "segments": int(size["tp"] + size["fn"])}
        for part, scores in parts.items():
            row |= {f"{part} {name}": percent(scores["sizes"][place][key]) for name, key in _SIZE_SCORES.items()}
        rows.append(row)
    total = {f"{part} PQ": percent(scores["class_agnostic"]["pq"]) for part, scores in parts.items()}
    return pd.DataFrame([*rows, {"area, px": "all"} | total])


def latent_resolution_findings(results: Records) -> list[str]:
    """Whether small segments are missed, and whether finer latents find more of them."""
    record = results[STAGE]
    fine, coarse = sorted(record["metrics"]["latents"], key=lambda entry: entry["factor"])
    sentences = []
    for name, of in (("The autoencoder alone", "reconstruction"), ("The diffusion model", "prediction")):
        # the smallest and the largest segments of both
        ends = []
        for entry in (fine, coarse):
            scores = entry[of] if of == "reconstruction" else entry[of]["scores"]
            known = [size for size in scores["sizes"] if size["recall"] is not None]
            ends.append((known[0], known[-1]))
        (fine_small, fine_large), (coarse_small, coarse_large) = ends
        sentences.append(
            f"{name} finds {percent(fine_small['recall']):.0f} % of the segments of {_range(fine_small)} px and"
            f" {percent(fine_large['recall']):.0f} % of those of {_range(fine_large)} px with f = {fine['factor']},"
            f" {percent(coarse_small['recall']):.0f} % and {percent(coarse_large['recall']):.0f} % with"
            f" f = {coarse['factor']}: finer latents find {_more(fine_small['recall'], coarse_small['recall'])} of the"
            " smallest."
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


def _range(size: Mapping[str, Any]) -> str:
    last = "and more" if size["max_area"] is None else f"to {size['max_area']}"
    return f"{size['min_area']} {last}"
