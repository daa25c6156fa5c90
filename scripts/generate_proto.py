#!/usr/bin/env python3
"""Regenerate sequencer/pulsar/pulsar_api_pb2.py and .pyi from pulsar_api.proto.

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
PROTO = "sequencer/pulsar/pulsar_api.proto"


def main() -> int:
    try:
        from grpc_tools import protoc
    except ImportError:
        print(f"error: needs grpcio-tools=={GENERATOR}\n{__doc__}", file=sys.stderr)
        return 1
    if version("grpcio-tools") != GENERATOR:
        print(f"error: found grpcio-tools {version('grpcio-tools')}, needs {GENERATOR}", file=sys.stderr)
        return 1
    return int(protoc.main(["protoc", f"-I{ROOT}", f"--python_out={ROOT}", f"--pyi_out={ROOT}", str(ROOT / PROTO)]))


if __name__ == "__main__":
    raise SystemExit(main())
