"""A comparison in words, for the command line and the report."""

from __future__ import annotations

from ..errors import counted
from ..text import count_text
from .compare import Comparison, Traces
from .flips import total
from .segmentation import MaskComparison


def findings(found: Comparison) -> list[tuple[str, str]]:
    """What was found: names and values as text."""
    images = len(found.torch.labels)
    same = round(found.agreement * images)
    return [
        ("top-1 agreement", f"{found.agreement:.2%} ({same} of {counted(images, 'image')})"),
        ("accuracy in PyTorch", f"{found.torch.top1:.2%}" if found.labelled else "not measured"),
        ("accuracy of the packed file", f"{found.native.top1:.2%}" if found.labelled else "not measured"),
        ("largest logit difference", f"{found.logit_difference:.3g}"),
        ("native and NumPy reference", _reference_text(found)),
        ("PyTorch and native", _parts_text(found)),
        ("on the same input, op by op", _flips_text(found)),
    ]


def mask_findings(found: MaskComparison) -> list[tuple[str, str]]:
    """What was found of a segmentation: names and values as text."""
    return [
        ("pixel agreement", f"{found.agreement:.3%} of the pixels of {counted(found.torch.images, 'image')}"),
        ("mIoU in PyTorch", f"{found.torch.miou:.2%}"),
        ("mIoU of the packed file", f"{found.native.miou:.2%}"),
        ("native and NumPy reference", _reference_text(found)),
        ("PyTorch and native", _parts_text(found)),
        ("on the same input, op by op", _flips_text(found)),
    ]


def _reference_text(found: Traces) -> str:
    if found.reference_parts_at is None:
        return f"equal, bit for bit, after all {len(found.ops)} ops of {counted(found.traced, 'image')}"
    return f"DIFFER, first after op {found.reference_parts_at}"


def _parts_text(found: Traces) -> str:
    parted = found.parts_at
    if parted is None:
        return f"equal to rounding after all {len(found.ops)} ops of {counted(found.traced, 'image')}"
    return (
        f"equal to rounding up to op {parted.name}, where {parted.fraction:.1e} of the elements differ by more "
        "(flipped signs)"
    )


def _flips_text(found: Traces) -> str:
    whole, unexplained = total(found.flips), found.unexplained
    if unexplained is not None:
        return f"DIFFER in {unexplained.name} by more than flipped signs explain: packed from other weights?"
    text = f"{whole.flipped} of {count_text(whole.decisions)} signs and levels flipped"
    return text + (f", at most {whole.farthest:.0e} of the rms from their threshold" if whole.flipped else "")
