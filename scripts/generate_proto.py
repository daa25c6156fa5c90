#!/usr/bin/env python3
"""Regenerate sequencer/pulsar/*_pb2.py and .pyi from the .proto files beside them.

    python -m venv /tmp/protoc && /tmp/protoc/bin/pip install grpcio-tools==1.62.3 'setuptools<80'
    /tmp/protoc/bin/python scripts/generate_proto.py

An old generator on purpose: its output (protobuf 4.25) runs on every runtime from 4.25 on, while the output of a
newer one refuses runtimes older than itself, and after two major versions newer ones as well.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

GENERATOR = "1.62.3"
ROOT = Path(__file__).resolve().parent.parent
PROTOS = ("sequencer/pulsar/pulsar_api.proto", "sequencer/pulsar/plain_head.proto")


def main() -> int:
    try:
        from grpc_tools import protoc
    except ImportError:
        print(f"error: needs grpcio-tools=={GENERATOR}\n{__doc__}", file=sys.stderr)
        return 1
    if version("grpcio-tools") != GENERATOR:
        print(f"error: found grpcio-tools {version('grpcio-tools')}, needs {GENERATOR}", file=sys.stderr)
        return 1
    sources = [str(ROOT / proto) for proto in PROTOS]
    return int(protoc.main(["protoc", f"-I{ROOT}", f"--python_out={ROOT}", f"--pyi_out={ROOT}", *sources]))


if __name__ == "__main__":
    raise SystemExit(main())
