"""The table of notebook 13, from what its study returns. The paper has no such table."""

import pandas as pd

from ..records import Records, percent

STAGE = "13_own_dataset"


def own_dataset(results: Records) -> pd.DataFrame:
    """Class-agnostic PQ and AP50 of the predictions, and class-agnostic PQ of the autoencoder's reconstructions."""
    metrics = results[STAGE]["metrics"]
    ceiling, panoptic = metrics["reconstruction"], metrics["panoptic"]
    counts = {"num_ids": metrics["num_ids"], "min_area": metrics["min_area"]}
    rows = [
        {
            "what": f"predictions, {metrics['images']['val']} validation images",
            **counts,
            **{
                f"class-agn. {key.upper()}": percent(metrics["class_agnostic"]["All"][key])
                for key in ("pq", "sq", "rq")
            },
            "AP50": percent(metrics["ap50"]),
            "PQ things": percent(panoptic["Things"]["pq"]),
            "PQ stuff": percent(panoptic["Stuff"]["pq"]),
        },
        {
            "what": "autoencoder alone, central crops",
            **counts,
            "min_area": 0,
            **{f"class-agn. {key.upper()}": percent(ceiling[key]) for key in ("pq", "sq", "rq")},
        },
    ]
    return pd.DataFrame(rows)
