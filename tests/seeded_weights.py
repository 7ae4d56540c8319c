"""Deterministic pseudo-random weights for numerical parity tests (NumPy only).

No pretrained checkpoint is needed to prove that two implementations compute the same
function: it is enough that both load the *same* weights.  Every tensor here is a pure
function of (model name, state-dict key, shape):

    seed   = first 8 bytes, little endian, of sha256("<model>/<key>")
    z      = numpy.random.Generator(numpy.random.PCG64(seed)).standard_normal(shape)
    tensor = float32(offset + gain * z)        (running_var: float32(exp(gain * z)))

`offset` and `gain` depend on the kind of tensor only (see `rule`).  The gains keep
activations around unit variance, the warp field at a few pixels, the blend masks between
0.1 and 0.9, and the picture inside [-1, 1] with a clear dependence on source, lip, pose
and expression, while float32 rounding stays below 1e-4 in the picture.  Blur buffers
(`*.kernel`) keep their true values.

Model names: "edtalk" (EDTalk.pt), "lip_pose" (EDTalk_lip_pose.pt), "audio2lip"
(Audio2Lip.pt).  Keys and shapes are listed in state_dict_<model>.json next to this file.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np

MODELS = ("edtalk", "lip_pose", "audio2lip")

# Layers that must not sit at unit variance: (start of the key, end of the key, gain).
SPECIAL_GAIN = (
    ("dec.to_rgb", ".conv.0.weight", 0.3),  # six RGB layers are summed
    ("lip_fc.2.", "weight", 4.0),  # motion coefficients of real size (+-5)
    ("pose_fc.2.", "weight", 4.0),
    ("exp_fc.2.", "weight", 4.0),
    ("audio_encoder.", "weight", 0.6),  # residual stack without rescaling
    ("mapping.", "weight", 2.5),
)
# A ToFlow convolution has three output rows: x shift, y shift, mask logit.
FLOW_ROW_GAIN = np.array([0.04, 0.04, 0.5]).reshape(1, 3, 1, 1, 1)


def normal(model, key, shape):
    """Standard-normal float64 array that depends on the model name and key alone."""
    digest = hashlib.sha256(f"{model}/{key}".encode()).digest()
    bits = np.random.PCG64(int.from_bytes(digest[:8], "little"))
    return np.random.Generator(bits).standard_normal(tuple(shape))


def blur_kernel(key):
    """The true FIR buffer: outer([1 3 3 1]) / 64, times 4 where it follows an upsampling."""
    tap = np.array([1.0, 3.0, 3.0, 1.0])
    kernel = np.outer(tap, tap) / 64.0
    return kernel * 4.0 if key.startswith("dec.") else kernel


def rule(key, shape):
    """(offset, gain) of one tensor, from its key and shape."""
    if key.endswith(("modulation.bias", "conv_block.1.weight")):
        return 1.0, 0.1  # style scale, batch-norm scale
    if key.endswith("running_var"):
        return 0.0, 0.3  # exponentiated by the caller
    if key.endswith(("bias", "running_mean", "noise.weight")):
        return 0.0, 0.03 if key.startswith("dec.to_flows.") else 0.1
    if key.startswith("dec.to_flows.") and key.endswith(".conv.weight"):
        return 0.0, FLOW_ROW_GAIN
    gain = 1.0
    for head, tail, special in SPECIAL_GAIN:
        if key.startswith(head) and key.endswith(tail):
            gain = special
    # Plain (not equalised) layers carry their own 1/sqrt(fan_in).
    if "fineadainresblock" in key or key.startswith(("audio_encoder.", "mapping.")):
        gain *= 1.4 / math.sqrt(math.prod(shape[1:]))
    if "mlp_shared" in key:
        gain *= 1.5  # the expression latent is short
    return 0.0, gain


def seeded_tensor(model, key, shape):
    """One state-dict entry as a NumPy array (float32; int64 for the batch-norm counter)."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(tuple(shape), np.int64)
    if key.endswith("kernel"):
        return blur_kernel(key).astype(np.float32)
    offset, gain = rule(key, shape)
    value = offset + gain * normal(model, key, shape)
    if key.endswith("running_var"):
        value = np.exp(value)
    return np.asarray(value, np.float64).astype(np.float32)


def seeded_state_dict(model, shapes=None):
    """Full state dict {key: array}; `shapes` defaults to state_dict_<model>.json."""
    if shapes is None:
        path = Path(__file__).with_name("data") / f"state_dict_{model}.json"
        shapes = {t["key"]: t["shape"] for t in json.loads(path.read_text())["tensors"]}
    return {key: seeded_tensor(model, key, shape) for key, shape in shapes.items()}
