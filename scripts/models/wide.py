"""Runs the models of `transformers` in f64 throughout.

They ask for f32 by name in many places: rotary angles, softmax, the squares of a normalization. Inside of
`Wide()` each of these requests gives f64, so that what a model computes can be compared with an exact result
to many more digits than f32 has.
"""

import torch
from torch.overrides import TorchFunctionMode


class Wide(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        def wide(value):
            return torch.float64 if value is torch.float32 else value

        if getattr(function, "__name__", "") == "float":
            function = torch.Tensor.double
        args = [wide(value) for value in args]
        kwargs = {key: wide(value) for key, value in (kwargs or {}).items()}
        return function(*args, **kwargs)
