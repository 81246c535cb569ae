#!/usr/bin/env bash
# Installs torch unless it is there. Usage: install_torch.sh PYTHON [INDEX_URL]
# The release in constraints.txt is taken, so that a wheel which pip finds locally serves as well.
set -eu
python=$1
index=${2:-}
if "$python" -c "import torch" 2>/dev/null; then exit 0; fi
wanted=$(grep -E '^torch==' constraints.txt)
if [ -n "$index" ]; then
  echo "Installing $wanted from $index"
  exec "$python" -m pip --disable-pip-version-check install --quiet --index-url "$index" "$wanted"
fi
echo "Installing $wanted. From PyPI on Linux x86-64 this is the CUDA build (about 2.7 GB)."
echo "Without a GPU the CPU build (190 MB) does: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu"
exec "$python" -m pip --disable-pip-version-check install --quiet "$wanted"
