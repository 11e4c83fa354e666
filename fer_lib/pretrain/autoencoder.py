"""Build the masked autoencoder, and reconstruct images with it.

Masked Autoencoders Are Scalable Vision Learners, https://arxiv.org/abs/2111.06377: a ViT encodes
the few patches that are left visible, and a small decoder predicts the others.
"""

import math

import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from fer_lib.pretrain.config import PretrainConfig, require_mask_ratio


def attention(device: str) -> str:
    """Return transformers' name for the attention to use on a type of device.

    On a CPU this is plain attention, because a training step in bf16 takes twice as long with the
    fused kernel. On a GPU it is the fused kernel, under a name of our own: for the names that it
    knows, transformers 5.17 makes a mask only while a step is recorded, so the recorded kernel
    would not be the one that ran before. Plain attention copies a number to the device, which a
    recording forbids.
    """
    if device != "cuda":
        return "eager"
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("sdpa_without_mask", sdpa_attention_forward)
    return "sdpa_without_mask"


def build_autoencoder(config: PretrainConfig, device: str = "cpu") -> nn.Module:
    """Build a `transformers.ViTMAEForPreTraining` with random weights; nothing is downloaded.

    Args:
        device: type of the device on which it will compute, such as "cuda". It is built on the CPU.
    """
    from transformers import ViTMAEConfig, ViTMAEForPreTraining  # takes seconds to import

    autoencoder = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=config.img_size,
            patch_size=config.patch_size,
            num_channels=1,
            hidden_size=config.embed_dim,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            intermediate_size=4 * config.embed_dim,
            decoder_hidden_size=config.decoder_dim,
            decoder_num_hidden_layers=config.decoder_depth,
            decoder_num_attention_heads=config.decoder_heads,
            decoder_intermediate_size=4 * config.decoder_dim,
            layer_norm_eps=1e-6,  # as in timm's ViTs, which take over the encoder's weights
            mask_ratio=config.mask_ratio,
            norm_pix_loss=config.norm_pix_loss,
            attn_implementation=attention(device),
        )
    )
    initialise(autoencoder)
    return autoencoder


@torch.no_grad()
def initialise(autoencoder: nn.Module) -> None:
    """Draw weights as the paper's code does, and set the fixed sine and cosine positions.

    transformers 5.23 itself leaves the positions at zero, and they are not trained: neither encoder
    nor decoder could then tell where a patch is, and the loss would stay at that of the mean image.
    """
    encoder, decoder = autoencoder.vit.embeddings, autoencoder.decoder
    for module in autoencoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.xavier_uniform_(encoder.patch_embeddings.projection.weight.flatten(1))
    for token in (encoder.cls_token, decoder.mask_token):
        nn.init.normal_(token, std=0.02)
    for positions in (encoder.position_embeddings, decoder.decoder_pos_embed):  # (1, 1 + P, D)
        side = math.isqrt(positions.shape[1] - 1)
        positions[0, 1:] = build_sincos2d_pos_embed([side, side], positions.shape[2])


def mask_noise(images: int, patches: int, seed: int) -> Tensor:
    """Draw random numbers that decide which patches are masked.

    Returns:
        (images, patches) float32 on the CPU; the patches with the largest numbers are masked.
    """
    return torch.rand(images, patches, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def reconstruct(
    autoencoder: nn.Module, x: Tensor, *, mask_ratio: float = 0.75, seed: int = 0
) -> Tensor:
    """Hide a part of each image, and let the autoencoder predict it from the rest.

    An autoencoder trained with `norm_pix_loss` predicts the pattern of a patch, but neither its
    mean nor its standard deviation. Both are taken from the true patch, so brightness and contrast
    of masked patches are given, not predicted.

    Args:
        autoencoder: as `Pretraining.load()` returns it.
        x: (B, 1, H, W) float, normalised, on the device of the autoencoder.
        mask_ratio: share of the patches to hide; it may differ from the one in training.
        seed: decides which patches are hidden.

    Returns:
        (B, 1, H, W): visible patches as they are, masked patches as predicted.

    Raises:
        InputError: `mask_ratio` hides no patch or leaves none, see `require_mask_ratio`.
    """
    patches = autoencoder.patchify(x)  # (B, P, pixels)
    number = patches.shape[1]
    require_mask_ratio(mask_ratio, number)
    trained_with = autoencoder.config.mask_ratio
    try:
        autoencoder.config.mask_ratio = float(mask_ratio)
        output = autoencoder(x, noise=mask_noise(len(x), number, seed).to(x.device))
    finally:
        autoencoder.config.mask_ratio = trained_with
    predicted = output.logits
    if autoencoder.config.norm_pix_loss:
        deviation = (patches.var(-1, keepdim=True) + 1e-6).sqrt()  # as in the loss
        predicted = predicted * deviation + patches.mean(-1, keepdim=True)
    hidden = output.mask.bool()[..., None]  # (B, P, 1)
    return autoencoder.unpatchify(torch.where(hidden, predicted, patches))
