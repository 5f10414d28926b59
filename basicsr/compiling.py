"""torch.compile, and the way back from it where it fails."""

from __future__ import annotations

import sys

from torch import nn


def compile_network(net: nn.Module) -> None:
    """Compiles a network in place, at its first use: its keys and its attributes stay as they are."""
    net.compile()


def uncompile(net: nn.Module) -> bool:
    """Takes :func:`compile_network` back. Returns whether there was anything to take back."""
    compiled = net._compiled_call_impl is not None
    net._compiled_call_impl = None
    return compiled


def compiler_failure(error: BaseException) -> str | None:
    """Why the compiler failed, in one line; None if the error is not of the compiler.

    Errors of the compiler mean that it did not understand the network, or lacks something on this machine (a C++
    compiler, a GPU that Triton knows); an error of the network itself keeps its own type.
    """
    if 'torch._dynamo' not in sys.modules:  # nothing has been compiled
        return None
    from torch._dynamo.exc import TorchDynamoException

    chain: BaseException | None = error
    while chain is not None and not isinstance(chain, TorchDynamoException):
        chain = chain.__cause__ or chain.__context__
    if chain is None:
        return None
    first = next((line for line in str(chain).splitlines() if line.strip()), type(chain).__name__)
    return first.strip()
