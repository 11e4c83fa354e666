"""Self-supervised pretraining on faces: a masked autoencoder learns from images without labels.

    python -m fer_lib.pretrain --dataset fer2013 --data-dir DIR --preset full

As in training, all random numbers depend on (seed, epoch) alone, and metrics stay on the device
until the epoch ends. A pretraining that is killed resumes after its last finished epoch and, on the
same CPU, gives the same numbers as one that was not interrupted. It runs in one process.
"""

from fer_lib.pretrain.autoencoder import reconstruct
from fer_lib.pretrain.config import PretrainConfig, pretraining
from fer_lib.pretrain.folder import Pretraining
from fer_lib.pretrain.loop import pretrain
