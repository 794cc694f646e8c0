"""A browser of results in a notebook: image, ground truth and prediction, one held-out image at a time."""

import io

import ipywidgets
import numpy as np

from ..data.panoptic import PanopticDataset
from ..experiments.plots import contact_sheet
from ..pipeline.ldmseg import PanopticOutput


class ResultsBrowser(ipywidgets.VBox):
    """A slider over the images of a split, with the truth and the prediction of the chosen one.

    Args:
        dataset: the split that was predicted.
        output: predictions in the split's order.
        order: image indices in the order of the slider, such as from the worst to the best; as in the split by default.
    """

    def __init__(self, dataset: PanopticDataset, output: PanopticOutput, *, order: list[int] | None = None) -> None:
        self.dataset, self.output = dataset, output
        self.order = list(range(len(output))) if order is None else order
        self.names = {category["id"]: category["name"] for category in dataset.categories}
        self.slider = ipywidgets.IntSlider(
            value=0, min=0, max=len(self.order) - 1, description="image", continuous_update=False
        )
        self.show_names = ipywidgets.Checkbox(value=True, description="class names")
        self.picture, self.caption = ipywidgets.Image(format="png"), ipywidgets.HTML()
        for control in (self.slider, self.show_names):
            control.observe(lambda _: self.draw(), names="value")
        super().__init__([ipywidgets.HBox([self.slider, self.show_names]), self.caption, self.picture])
        self.draw()

    def _labels(self, segments: list[dict]) -> dict[int, str]:
        return {s["id"]: self.names.get(s["category_id"], "?") for s in segments} if self.show_names.value else {}

    def draw(self) -> None:
        """Show the image that the slider points to."""
        index = self.order[self.slider.value]
        truth, ids = self.dataset.ground_truth(index), self.output.ids[index]
        segments = self.output.segments[index]
        figure = contact_sheet(
            [[truth.image, truth.ids.astype(np.int64), ids]],
            ["image", "ground truth", "prediction"],
            labels=[[self._labels(truth.segments), self._labels(segments)]],
            side=2.8,
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        self.picture.value = buffer.getvalue()
        self.caption.value = f"{truth.file_name}: {len(truth.segments)} segments, {len(segments)} predicted"
