#!/usr/bin/env bash
# The OpenUSD versions of Isaac Sim 5.1 (24.5) and 6 (25.11): they read what this environment
# writes, and write and check layers themselves. The client with the protobuf runtimes 4.25 and 5.29
# against a server of this environment. What cannot be made here skips and says why.
set -u
cd "$(dirname "$0")/.."
status=0
tools/setup_usd24.sh
if [ $? -eq 0 ]; then
  .venv-usd24/bin/python -m pytest -q -p no:cacheprovider tests/scene/test_worldfile.py \
    tests/scene/test_trust.py tests/generator/test_layers.py tests/studio/test_attach.py \
    tests/studio/test_shelf.py || status=1
fi
tools/setup_ui.sh
tools/setup_wire.sh
.venv/bin/python -m pytest -q tests/matrix || status=1
exit $status
