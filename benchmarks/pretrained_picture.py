"""What the pretrained weights make of scenes that they never saw: the first picture of README.md.

    python benchmarks/pretrained_picture.py

Image, ground truth, one sample, the consensus of several, and where the samples agree; scenes of the split ready_test,
which measures the weights and chose nothing. Writes figures/pretrained.png.
"""

import argparse

import torch
from PIL import Image

from ldmseg_lib import LDMSegPipeline
from ldmseg_lib.core import paths
from ldmseg_lib.data.scenes.dataset import scene_seed
from ldmseg_lib.data.scenes.scene import draw_scene
from ldmseg_lib.experiments.few_steps.plots import pretrained_sheet
from ldmseg_lib.experiments.plots import save_figure

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--scenes", type=int, nargs="+", default=[0, 1, 2, 3], help="numbers within ready_test (%(default)s)"
)
parser.add_argument("--weights", default="embedded")
parser.add_argument("--samples", type=int, default=8)
given = parser.parse_args()

scenes = [draw_scene(scene_seed("ready_test", n), size=64, min_things=2, max_things=5) for n in given.scenes]
pipeline = LDMSegPipeline.from_pretrained(given.weights)
images = [Image.fromarray(scene.image) for scene in scenes]
generators = [torch.Generator().manual_seed(number) for number in given.scenes]
one = pipeline(images, num_inference_steps=20, generator=generators)
several = pipeline(images, num_inference_steps=5, num_samples=given.samples, generator=generators)
rows = [(scene.image, scene.ids, one.ids[k], several.ids[k], several.agreement[k]) for k, scene in enumerate(scenes)]
for file in save_figure(pretrained_sheet(rows, samples=given.samples), paths.FIGURES, "pretrained"):
    print(file)
