#!/usr/bin/env bash
# Tests of the extension: its logic here, then the real window under Xvfb in .venv-ui (OpenUSD 25.11,
# Python 3.12). Where that environment cannot be made, the window's tests skip and say why.
set -u
cd "$(dirname "$0")/.."
tools/setup_ui.sh
ready=$?
[ $ready -eq 0 ] || [ $ready -eq 77 ] || exit $ready
.venv/bin/python -m pytest -q tests/studio || exit 1
if [ $ready -eq 0 ]; then
  .venv-ui/bin/python -m pytest -q -p no:cacheprovider tests/studio/test_attach.py tests/studio/test_shelf.py || exit 1
fi
