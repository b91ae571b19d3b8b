"""The memory on which a process handles signals outlives models of OpenVINO."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

from backbones.common.signal_stack import kept_signal_stack, signal_stack


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's sigaltstack")
def test_models_that_are_closed_in_the_order_of_opening_leave_the_stack():
    openvino = pytest.importorskip("openvino")
    ops = pytest.importorskip("openvino.opset13")

    def opened():
        images = ops.parameter([1, 3, 16, 16], np.float32)
        kernel = ops.constant(np.ones((4, 3, 3, 3), np.float32))
        net = ops.convolution(images, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
        with kept_signal_stack():
            return openvino.compile_model(openvino.Model([net], [images]), "CPU", {"INFERENCE_NUM_THREADS": 1})

    def place():
        stack = signal_stack()
        return stack.address, stack.flags, stack.size

    before, models = place(), [opened(), opened()]
    assert place() == before
    for model in models:
        model(np.ones((1, 3, 16, 16), np.float32))
    while models:
        del model
        model = models.pop(0)
    del model
    gc.collect()
    assert place() == before
