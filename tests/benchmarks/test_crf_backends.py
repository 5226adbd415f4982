"""The dense CRF in torch against the compiled one: one picture of VOC's size, three classes.

pytest -m benchmark tests/benchmarks/test_crf_backends.py -s

Both run once to warm up and once more under the clock, on one thread. Some ten seconds on one core;
``cpu_s`` counts where others run too. Rows are appended to data/08_reporting/benchmarks.jsonl.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from measuring import compared, device_name
from torch.nn import functional

from diffground.masks.crf import CrfConfig, dense_crf


@pytest.mark.benchmark
@pytest.mark.skipif(find_spec("pydensecrf") is None, reason="the compiled CRF is not installed")
def test_torch_beside_the_compiled_crf():
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 7, 12, 16, generator=random)
    smooth = functional.interpolate(coarse, (375, 500), mode="bicubic").clamp(0.01, 1)[0].numpy()
    image = np.ascontiguousarray((255 * smooth[:3]).astype(np.uint8).transpose(1, 2, 0))
    rows: dict[str, dict[str, Any]] = {}
    for backend in ("pydensecrf", "torch"):
        config = CrfConfig.model_validate({"backend": backend})
        for _ in range(2):
            worked = time.process_time()
            labels = dense_crf(image, smooth[3:], config, "official").argmax(0)
            seconds = time.process_time() - worked
        rows[backend] = {
            "what": "dense CRF, 500 x 375 px, four labels",
            "variant": backend,
            "device": device_name("cpu"),
            "threads": torch.get_num_threads(),
            "cpu_s": round(seconds, 3),
        }
        assert labels.shape == (375, 500)
    compared(rows, "pydensecrf", ["cpu_s"])
