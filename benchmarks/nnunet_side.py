"""The peer of predict_vs_nnunet.py, a program that runs in nnU-Net's own environment.

    python nnunet_side.py make  --model FOLDER --classes 27 --channels 32 64 128 --patch 96 --spacing-mm 1.5
    python nnunet_side.py predict SCAN --model FOLDER --out FOLDER --note note.json --overlap 0.25

``make`` writes a model folder as nnU-Net's training leaves it (plans.json, dataset.json, checkpoint_final.pth), with
random weights; ``predict`` is nnU-Net's own predictor and export on the CPU, without mirroring: all in this process, as
its command does with ``-npp 0 -nps 0``, which is quicker for one scan; or with worker processes, as it does by default.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

CONFIGURATION = "3d_fullres"


def main() -> None:
    """Make a model or predict with it."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    make = jobs.add_parser("make")
    make.set_defaults(job=_make)
    make.add_argument("--classes", type=int, required=True)
    make.add_argument("--channels", type=int, nargs="+", required=True)
    make.add_argument("--patch", type=int, required=True)
    make.add_argument("--spacing-mm", type=float, required=True)
    predict = jobs.add_parser("predict")
    predict.set_defaults(job=_predict)
    predict.add_argument("scan", type=Path)
    predict.add_argument("--out", type=Path, required=True)
    predict.add_argument("--note", type=Path, required=True)
    predict.add_argument("--overlap", type=float, required=True)
    predict.add_argument("--workers", type=int, default=0, help="to prepare, and as many to export")
    for one in (make, predict):
        one.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()
    options.job(options)
    if "note" in options:
        options.note.write_text(json.dumps({"seconds": time.perf_counter() - start}))


def _predict(options: argparse.Namespace) -> None:
    predictor = nnUNetPredictor(
        tile_step_size=1.0 - options.overlap,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(options.model), use_folds=(0,))
    mask = options.out / options.scan.name.removesuffix(".nii.gz")
    mask.with_name(f"{mask.name}.nii.gz").unlink(missing_ok=True)
    files = [[str(options.scan)]], [str(mask)]
    if options.workers:
        predictor.predict_from_files(
            *files, num_processes_preprocessing=options.workers, num_processes_segmentation_export=options.workers
        )
    else:
        predictor.predict_from_files_sequential(*files)
    if not mask.with_name(f"{mask.name}.nii.gz").is_file():
        raise SystemExit("nnU-Net wrote no mask")


def _make(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    architecture = _architecture(options.channels)
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        input_channels=1,
        output_channels=options.classes,
        deep_supervision=False,
    )
    fold = options.model / "fold_0"
    fold.mkdir(parents=True, exist_ok=True)
    labels = {"background": 0, **{f"label{number}": number for number in range(1, options.classes)}}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (options.model / "dataset.json").write_text(json.dumps(dataset))
    (options.model / "plans.json").write_text(json.dumps(_plans(options, architecture)))
    torch.save(
        {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": CONFIGURATION},
            "inference_allowed_mirroring_axes": None,
        },
        fold / "checkpoint_final.pth",
    )
    print(sum(parameter.numel() for parameter in network.parameters()))


def _architecture(channels: list[int]) -> dict[str, Any]:
    levels = len(channels)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": levels,
            "features_per_stage": channels,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * levels,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (levels - 1),
            "n_conv_per_stage": [2] * levels,
            "n_conv_per_stage_decoder": [2] * (levels - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _plans(options: argparse.Namespace, architecture: dict[str, Any]) -> dict[str, Any]:
    """What nnU-Net plans for a CT data set of isotropic spacing: cubic to the network grid, linear back."""
    resampling = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [options.patch] * 3,
        "median_image_size_in_voxels": [options.patch * 2.0] * 3,
        "spacing": [options.spacing_mm] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
        "architecture": architecture,
        "batch_dice": False,
    }
    intensities = {
        "mean": 300.0,
        "std": 250.0,
        "median": 250.0,
        "min": -1000.0,
        "max": 3000.0,
        "percentile_00_5": -250.0,
        "percentile_99_5": 1250.0,
    }
    return {
        "dataset_name": "Dataset001_Random",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [options.spacing_mm] * 3,
        "original_median_shape_after_transp": [options.patch * 2] * 3,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


if __name__ == "__main__":  # nnU-Net's worker processes import this file again
    main()
