"""How exactly an encoder computes: by name, or as the hardware does it best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..extras import import_extra

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = ("auto", "fp32", "bf16", "int8", "int8-dynamic", "nf4")
"""auto is bf16 where the hardware computes in it, else fp32. The int8 ones hold the weights of all
linear layers in 8 bits (torchao), `int8-dynamic` rounds what enters them as well; nf4 holds them in
4 bits (bitsandbytes, CUDA only)."""


def has_bf16(device: torch.device | str | None = None) -> bool:
    """Say whether a device, or the one that torch would choose, computes in bf16 natively."""
    kind = torch.device(device).type if device is not None else None
    if kind == "cuda" or (kind is None and torch.cuda.is_available()):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind not in (None, "cpu"):
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def loading_options(precision: str, device: str | None) -> dict[str, Any]:
    """Return what `from_pretrained` must be told, after checking that the precision can be had.

    Raises:
        ValueError: It is not known, or this device cannot have it.
        ImportError: A package is missing.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision {precision!r} is not known; choose from {', '.join(PRECISIONS)}"
        )
    narrow = precision == "bf16" or (precision != "fp32" and has_bf16(device))
    options: dict[str, Any] = {"dtype": torch.bfloat16 if narrow else torch.float32}
    if precision.startswith("int8"):
        import_extra("torchao", "int8")
    if precision == "nf4":
        on_cuda = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
        if not on_cuda:
            raise ValueError("precision 'nf4' needs a CUDA device; choose int8, bf16 or fp32")
        import_extra("bitsandbytes", "nf4")
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    return options


def quantise(model: nn.Module, precision: str) -> None:
    """Hold the weights of a loaded model's linear layers in 8 bits, where the precision says so.

    Raises:
        ValueError: The model has no linear layers of the kind that torchao knows.
    """
    if not precision.startswith("int8"):
        return
    from torchao import quantization

    if not any(type(module) is torch.nn.Linear for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has no torch.nn.Linear layers, so precision {precision!r} "
            "would change nothing; choose bf16 or fp32"
        )
    kinds = {
        "int8": quantization.Int8WeightOnlyConfig,
        "int8-dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
    }
    quantization.quantize_(model, kinds[precision]())


def check_savable(model: nn.Module) -> None:
    """Refuse quantised weights, which no folder holds so that it loads without a flag.

    Raises:
        ValueError: A weight is held in 8 or 4 bits.
    """
    for name, weight in model.named_parameters():
        # torchao's tensors are made of others; bitsandbytes packs two numbers into a byte
        if hasattr(weight, "__tensor_flatten__") or not weight.is_floating_point():
            raise ValueError(
                f"{name} is held as {type(weight).__name__}, in 8 or 4 bits, which cannot be "
                "saved; save the model as loaded without precision=..., and load that folder with "
                "it: weights are quantised in seconds"
            )
