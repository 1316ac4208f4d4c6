"""TensorRT: build an engine from a portable bundle, look into it, run it.

`recipe` is what the compiler wrote for this room, `build` follows it on the device, `inspection`
says what the engine really does, `execution` runs it, and `versions` is the only module that knows
how TensorRT 10.3, 10.13 and 11 differ.

A variable that holds a TensorRT object is named for its class (``builder``, ``network``,
``config``, ``parser``, ``engine``, ``context``, …), so that a test can collect every name of the
Python bindings that this room uses and compare it with what the wheels have.
"""

__all__: list[str] = []
