"""Command line: pretrain a masked autoencoder on the images of a dataset."""

import argparse
import json

from fer_lib.config import PRESETS
from fer_lib.data import load_faces
from fer_lib.files import InputError
from fer_lib.pretrain import pretrain, pretraining
from fer_lib.recipes import default_preset
from fer_lib.train import setting


def main(arguments: list[str] | None = None) -> None:
    """Command line; an error of the user's ends it with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.pretrain",
        description="Pretrain a masked autoencoder on the images of a dataset, without labels.",
    )
    parser.add_argument(
        "--dataset", default="sample", help="sample, fer2013, ferplus, rafdb, or a name"
    )
    parser.add_argument(
        "--data-dir", help="folder or file of the data; default: data/<dataset>, then Kaggle"
    )
    parser.add_argument("--preset", choices=PRESETS, help="default: sample, or quick on real data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", help="folder of all runs; default: runs/")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings of PretrainConfig to change",
    )
    args = parser.parse_args(arguments)
    try:
        changes = {"seed": args.seed} | dict(map(setting, args.set))
        config = pretraining(args.preset or default_preset(args.dataset), **changes)
        run = pretrain(config, load_faces(args.dataset, args.data_dir), runs=args.runs)
    except (InputError, FloatingPointError) as error:
        parser.error(str(error))
    data = f"--dataset {args.dataset}" + (f" --data-dir {args.data_dir}" if args.data_dir else "")
    loss = run.results["valid_loss"]
    print(
        f"{run.folder}: validation loss {loss['first']:.4f} after the first epoch, "
        f"{loss['last']:.4f} after the last {run.results['mark']}".rstrip()
    )
    print(
        f"to fine-tune it: python -m fer_lib.train vit_mae {data} --set "
        f"pretrained={run.encoder_path} 'options={json.dumps(run.options)}'"
    )


if __name__ == "__main__":
    main()
