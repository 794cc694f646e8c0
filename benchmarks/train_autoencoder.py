"""Train a mask autoencoder of 256 ids for benchmarks/postprocess.py, which wants 128 mask channels and 134 classes.

    python benchmarks/train_autoencoder.py runs/benchmarks/autoencoder

A small one on embedded scenes of 64 px; some minutes on two cores. It is convolutional and so takes maps of any size.
"""

import argparse
from pathlib import Path

from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.data.panoptic import PanopticDataset
from ldmseg_lib.data.scenes.dataset import write_dataset
from ldmseg_lib.training.autoencoder import train_autoencoder

SIZE, SCENES = 64, 1000


def main() -> None:
    """Draw scenes, train, save to FOLDER/autoencoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    scenes = write_dataset(
        options.folder / "scenes", size=SIZE, train_scenes=SCENES, val_scenes=8, min_things=4, max_things=9
    )
    overrides = {
        "data.num_ids": 256,
        "autoencoder.semantic_fraction": 0.0,
        "autoencoder.training.steps": options.steps,
        "autoencoder.training.batch_size": 16,
    }
    dataset = PanopticDataset(scenes, "train", image_size=SIZE, num_ids=256, augment=True)
    train_autoencoder(Profile.load("demo", overrides), dataset, options.folder)


if __name__ == "__main__":
    main()
