"""A sequence student as an ONNX file with free batch and length."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from modeling.students import Student
from train.proof import ExportError

OPSET = 18


class _Scores(nn.Module):
    """Items in, scores out: `forward` is what ONNX traces."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.student.item_scores(items)


def write_onnx(student: Student, path: Path) -> None:
    """Write one file, weights inside: input `items` int64 [batch, length], output `scores`.

    Raises:
        ExportError: the onnx extra is not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ExportError(
            "an ONNX export needs onnx and onnxscript: pip install 'brewhouse[onnx]'"
        ) from None
    longest = student.shape.max_length
    example = torch.full((2, min(3, longest)), student.padding_item, dtype=torch.int64)
    dynamic: dict[int, object] = {0: torch.export.Dim("batch")}
    if longest > 1:
        dynamic[1] = torch.export.Dim("length", max=longest)
    with _quiet():
        torch.onnx.export(
            _Scores(student.eval().cpu()),
            (example,),
            str(path),
            input_names=["items"],
            output_names=["scores"],
            dynamic_shapes={"items": dynamic},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its stages and logs every pass; errors still come through."""
    names = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
