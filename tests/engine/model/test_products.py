"""The kernel of few rows gives the product with 16-bit weights; on a CPU it runs in Triton's interpreter."""

import pytest
import torch
from torch.nn.functional import linear


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(96, 320), (100, 1100)])
def test_the_kernel_of_few_rows_multiplies_16_bit_weights(rows: int, bias: bool, outputs: int, inputs: int) -> None:
    kernels = pytest.importorskip("serve_app.engine.model.kernels.bf16", reason="there is no Triton")
    from serve_app.engine.model.kernels.few_rows import Split

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(rows)
    # float16: the interpreter's products of bfloat16 are not exact enough to compare
    x, weight, added = (torch.randn(*n, device=device).half() for n in ((rows, inputs), (outputs, inputs), (outputs,)))
    split = Split(outputs, device)
    for _ in range(2):  # the counts of finished programs are zero again after the first
        found = kernels.multiply(x, weight, added if bias else None, split)
    expected = linear(x.float(), weight.float(), added.float() if bias else None)
    assert torch.allclose(found.float(), expected, rtol=2e-3, atol=2e-2)
