"""Bad inputs through public names, with what each message must name; `messages.json` has the messages before the move.

`python tests/message_cases.py` prints the messages of the package on the path.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import ldmseg_lib as lib


def _profile(overrides: dict[str, Any], name: str = "smoke") -> Callable[[Path], Any]:
    return lambda folder: lib.Profile.load(name, overrides)


def _own_profile(text: str) -> Callable[[Path], Any]:
    def load(folder: Path) -> None:
        (folder / "own.yaml").write_text(text)
        lib.Profile.load(folder / "own.yaml")

    return load


def _data(change: Callable[[dict[str, Any]], Any], *, size: int = 8) -> Callable[[Path], Any]:
    """The first problem that `check_dataset` finds in a folder of one image after `change` of its JSON."""

    def check(folder: Path) -> None:
        for part in ("images", "panoptic"):
            (folder / part).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "images" / "1.jpg")
        rgb = np.zeros((size, 8, 3), np.uint8)
        rgb[..., 0] = 5
        Image.fromarray(rgb).save(folder / "panoptic" / "1.png")
        segment = {"id": 5, "category_id": 1, "iscrowd": 0, "area": size * 8, "bbox": [0, 0, 8, size]}
        document: dict[str, Any] = {
            "info": {},
            "images": [{"id": 1, "file_name": "1.jpg", "height": 8, "width": 8}],
            "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [segment]}],
            "categories": [{"id": 1, "name": "ball", "isthing": 1}],
        }
        change(document)
        (folder / "panoptic_train.json").write_text(json.dumps(document))
        raise ValueError(str(lib.check_dataset(folder, "train")[0]))

    return check


def _segment(**values: Any) -> Callable[[Path], Any]:
    return _data(lambda document: document["annotations"][0]["segments_info"][0].update(values))


def _quality(*arguments: Any, **rules: Any) -> Callable[[Path], Any]:
    return lambda folder: lib.PanopticQuality(*arguments, **rules)


def _evaluate(truth: str, *options: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> None:
        from ldmseg_lib.evaluation.__main__ import main

        (folder / "truth.json").write_text(truth)
        files = [f"--ground-truth={folder / 'truth.json'}", f"--predictions={folder / 'predictions.json'}"]
        _command(main, [*files, *options])

    return run


def _command(main: Callable[[list[str]], Any], arguments: list[str]) -> None:
    """Run a command; what it prints to stderr is its message."""
    import contextlib
    import io

    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.suppress(SystemExit):
        main(arguments)
    raise ValueError(stderr.getvalue().strip())


def _convert(*arguments: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> None:
        from ldmseg_lib.data.convert import main

        _command(main, [part.format(folder=folder) for part in arguments])

    return run


def _post(shape: tuple[int, ...], classes: tuple[int, ...] = (3, 4, 4), **settings: Any) -> Callable[[Path], Any]:
    return lambda folder: lib.postprocess_panoptic(torch.zeros(shape), torch.zeros(classes), **settings)


def _editor(ids: Any, act: Callable[[Any], Any] = lambda editor: None, image: Any = None) -> Callable[[Path], Any]:
    photo = np.zeros((8, 8, 3), np.uint8) if image is None else image
    return lambda folder: act(lib.MaskEditor(photo, ids))


def _stages(*arguments: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> None:
        import importlib
        import importlib.util

        moved = importlib.util.find_spec("ldmseg_lib.stages") is None
        module = importlib.import_module("ldmseg_lib.reproduction.__main__" if moved else "ldmseg_lib.stages")
        _command(module.main, [*arguments, f"--run-dir={folder}"])

    return run


@functools.cache
def _pipeline() -> Any:
    (index,) = Path(lib.__file__).parent.rglob("model_index.json")
    return lib.LDMSegPipeline.from_pretrained(index.parent)


def _segmented(**settings: Any) -> Callable[[Path], Any]:
    return lambda folder: _pipeline()(np.zeros((8, 8, 3), np.uint8), num_inference_steps=1, **settings)


def _inpainted(ids: Any, known: Any, **settings: Any) -> Callable[[Path], Any]:
    def run(folder: Path) -> None:
        pipeline = _pipeline()
        pipeline.inpaint(pipeline.encode_image(np.zeros((8, 8, 3), np.uint8)), ids, known, **settings)

    return run


IDS = np.ones((8, 8), int)
KNOWN = np.zeros((8, 8), bool)
BALL = {"id": 1, "name": "ball", "isthing": 1}
CASES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "profile: unknown name": (_profile({}, "dmeo"), ("'dmeo'", "did you mean 'demo'?")),
    "profile: unknown key": (_profile({"data.num_idz": 4}), ("data.num_idz", "did you mean 'data.num_ids'?")),
    "profile: unknown section": (_profile({"dta.num_ids": 4}), ("dta", "did you mean 'data.num_ids'?")),
    "profile: text for a number": (_profile({"data.num_ids": "many"}), ("data.num_ids", "int", "many")),
    "profile: fraction for a whole number": (_profile({"data.num_ids": 4.5}), ("data.num_ids", "int", "4.5")),
    "profile: number for a section": (_profile({"data": 3}), ("'data' must hold keys", "3")),
    "profile: unknown choice": (
        _profile({"evaluation.sampler": "ddmi"}),
        ("evaluation.sampler", "ddmi", "ddim", "consistency"),
    ),
    "profile: negative steps": (
        _profile({"diffusion.training.steps": -1}),
        ("diffusion.training.steps", "must be", "-1"),
    ),
    "profile: not YAML": (_own_profile("data: [1, 2"), ("own.yaml", "not YAML", "line 1")),
    "profile: section missing": (_own_profile("name: own"), ("'data' is missing",)),
    "profile: no such file": (lambda folder: lib.Profile.load(folder / "none.yaml"), ("none.yaml", "No such file")),
    "data: no folder": (lambda folder: lib.PanopticDataset(folder / "none", "train"), ("none", "panoptic_train.json")),
    "data: no list of images": (
        _data(lambda document: document.pop("images")),
        ("panoptic_train.json", '"images" must be a list'),
    ),
    "data: area differs": (_segment(area=3), ("1.png", "image id 1", "segment id 5", "area is 64 px", "3")),
    "data: unknown category": (
        _segment(category_id=9),
        ("image id 1", "segment id 5", "9 is not among the categories"),
    ),
    "data: segment not in the JSON": (_segment(id=6), ("1.png", "image id 1", "segment id 5", "JSON does not")),
    "data: PNG of another size": (_data(lambda document: None, size=6), ("1.png", "image id 1", "8x6", "8x8")),
    "data: image missing": (
        _data(lambda doc: doc["images"][0].update(file_name="2.jpg")),
        ("2.jpg", "image id 1", "no such file"),
    ),
    "convert: unknown kind": (_convert("cocoo"), ("cocoo", "choose from", "coco", "voc", "masks")),
    "convert: no such file": (
        _convert("coco", "{folder}/none.json", "{folder}", "{folder}/out"),
        ("none.json", "no such file"),
    ),
    "metric: category without a name": (_quality([{"id": 1, "isthing": 1}]), ("lacks name",)),
    "metric: category twice": (_quality([BALL, BALL]), ("occurs twice", "give each category once")),
    "metric: unknown crowd rule": (_quality([BALL], crowd="none"), ("none", "official", "corrected")),
    "evaluate: no JSON": (_evaluate("{"), ("truth.json", "not JSON", "line 1, column 2")),
    "evaluate: no annotations": (_evaluate("{}"), ("truth.json", "no list `categories`")),
    "evaluate: category incomplete": (
        _evaluate('{"categories": [{"id": 1}], "annotations": []}'),
        ("truth.json", "{'id': 1}", "isthing"),
    ),
    "evaluate: unknown option": (_evaluate("{}", "--crowds=official"), ("--crowds", "--help")),
    "post-process: two dimensions": (_post((4, 4)), ("(4, 4)", "give floats [channels, H, W]")),
    "post-process: no size": (_post((3, 4, 4), size=(0, 4)), ("(0, 4)", "give a positive height and width")),
    "encoding: unknown": (lambda folder: lib.get_encoding("bit"), ("'bit'", "valid ones are bits, colors, positional")),
    "encoding: no ids": (lambda folder: lib.get_encoding("bits", num_ids=0), ("at least 2 ids", "not 0")),
    "weights: no such folder": (
        lambda folder: lib.LDMSegPipeline.from_pretrained(folder / "none"),
        ("FOLDER/none", "no pipeline"),
    ),
    "weights: autoencoder missing": (
        lambda folder: lib.MaskAutoencoder.from_pretrained(folder),
        ("FOLDER", "MaskAutoencoder", "config.json"),
    ),
    "pipeline: unknown task": (_segmented(tasks=["depths"]), ("'depths'", "instance, semantic")),
    "pipeline: tasks as a text": (_segmented(tasks="instance"), ("'instance'", "give a list of names")),
    "pipeline: unknown sampler": (_segmented(sampler="ddmi"), ("'ddmi'", "valid ones are ddim, ddpm")),
    "pipeline: no image": (lambda folder: _pipeline().encode_image([]), ("no image", "at least one")),
    "inpainting: sizes differ": (_inpainted(IDS[:4], KNOWN), ("(4, 8)", "(8, 8)", "at the image's own size")),
    "inpainting: no candidate": (_inpainted(IDS, KNOWN, num_candidates=0), ("num_candidates", "at least 1")),
    "inpainting: negative id": (_inpainted(-IDS, ~KNOWN), ("-1", "0 .. 2**31 - 1")),
    "inpainting: resampling": (_inpainted(IDS, KNOWN, resamplings=2, sampler="dpm"), ("'dpm'", "use ddim")),
    "stages: unknown profile": (_stages("plan", "--profile=dmeo"), ("'dmeo'", "did you mean 'demo'?")),
    "stages: unknown notebook": (
        _stages("plan", "--profile=smoke", "--notebooks=02_autoencodr"),
        ("did you mean '02_autoencoder'?",),
    ),
    "stages: negative seed": (_stages("plan", "--profile=smoke", "--seed=-1"), ("seed", "whole number from 0", "-1")),
    "editor: sizes differ": (_editor(np.ones((4, 8), int)), ("8 x 8", "8 x 4", "nearest")),
    "editor: fractional ids": (_editor(np.ones((8, 8))), ("whole numbers", "float64", "(8, 8)")),
    "editor: image of five channels": (
        _editor(IDS, image=np.zeros((8, 8, 5), np.uint8)),
        ("(8, 8, 5)", "[height, width, 3] uint8"),
    ),
    "editor: negative radius": (_editor(IDS, lambda e: e.paint([(1, 1)], -2)), ("radius", "positive", "-2")),
    "editor: unknown segment": (_editor(IDS, lambda e: e.drop_segment(9)), ("segment 9", "the ids are 1")),
    "editor: no model": (_editor(IDS, lambda e: (e.box(0, 0, 4, 4), e.run())), ("No model", "pipeline")),
}


def message(case: str, folder: Path) -> str:
    """Type and text of the error of a case, without the name of its folder."""
    try:
        CASES[case][0](folder)
    except Exception as error:
        kind = type(error).__name__
        return f"{kind}: {error}".replace(str(folder), "FOLDER")
    return "no error"


if __name__ == "__main__":
    import tempfile

    found = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found[case] = message(case, Path(folder))
    json.dump(found, sys.stdout, indent=1)
