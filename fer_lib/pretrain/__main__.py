"""Command line: pretrain a masked autoencoder on the images of a dataset."""

import argparse
import json
import os
import shlex
import subprocess

from fer_lib.arguments import add_arguments, parse_settings
from fer_lib.data import load_faces
from fer_lib.files import InputError, continued
from fer_lib.pretrain import pretrain, pretraining
from fer_lib.recipes import default_preset


@continued()
def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error of the user ends it with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_lib.pretrain",
        description="Pretrain a masked autoencoder on the images of a dataset, without labels.",
    )
    add_arguments(parser, "PretrainConfig")
    args = parser.parse_args(arguments)
    try:
        changes = {"seed": args.seed} | parse_settings(args.set, ("seed", "preset"))
        config = pretraining(args.preset or default_preset(args.dataset), **changes)
        run = pretrain(config, load_faces(args.dataset, args.data_dir), runs=args.runs)
        loss, mark = run.results["valid_loss"], run.results["mark"]
    except (InputError, FloatingPointError) as error:
        parser.error("; ".join([str(error), *getattr(error, "__notes__", ())]))
    words = ["--dataset", args.dataset, "--preset", config.preset]
    words += ["--data-dir", args.data_dir] * bool(args.data_dir)
    words += ["--seed", str(args.seed)] * bool(args.seed)
    words += ["--runs", args.runs] * bool(args.runs)
    words += ["--set", f"pretrained={run.encoder_path}", f"options={json.dumps(run.options)}"]
    print(
        f"{run.folder}: validation loss {loss['first']:.4f} after the first epoch, "
        f"{loss['last']:.4f} after the last {mark}".rstrip()
    )
    print(f"to fine-tune it: python -m fer_lib.train vit_mae {quoted(words)}")


def quoted(words: list[str]) -> str:
    """Quote the words of a command for the shell here; that of Windows has no single quotes."""
    return (subprocess.list2cmdline if os.name == "nt" else shlex.join)(words)


if __name__ == "__main__":
    main()
