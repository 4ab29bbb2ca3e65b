import numpy as np
import pandas as pd
import pytest

ROWS = 12


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sig_id": [f"id_{i}" for i in range(ROWS)]})
    frame["cp_type"] = ["ctl_vehicle", *["trt_cp"] * (ROWS - 1)]
    frame["cp_time"] = [24, 48, 72] * (ROWS // 3)
    frame["cp_dose"] = ["D1", "D2"] * (ROWS // 2)
    for name in ("g-0", "g-1", "g-2", "g-10", "c-0", "c-1"):
        frame[name] = rng.normal(size=ROWS).round(4)
    return frame
