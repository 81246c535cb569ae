#!/usr/bin/env bash
# Makes .venv-ui: the real omni.ui (PyPI `ovui`) on Python 3.12, with what it needs to draw without
# a screen or a GPU. Safe to run again. Exit 0: ready. Exit 77: not possible here, and it says why.
set -u
cd "$(dirname "$0")/.."
venv=.venv-ui
packages=(xvfb xauth libgl1-mesa-dri libglfw3 libvulkan1 mesa-vulkan-drivers)

skip() { echo "studio window: skipped: $*"; exit 77; }

[ "$(uname -m)" = x86_64 ] || skip "ovui has wheels for x86_64 only"

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || skip "needs the system packages ${missing[*]}"
  [ "$(id -u)" = 0 ] || skip "type: sudo apt-get install -y ${missing[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >/dev/null 2>&1 || skip "apt-get install ${missing[*]} failed"
fi
command -v gcc >/dev/null || skip "needs gcc for the stand-in of libcuda"

if ! [ -e "$venv/.ready" ]; then
  python=$(tools/find_python.sh 3.12) && [ -n "$python" ] || skip "needs Python 3.12 (ovui has a wheel for nothing else)"
  $python -m venv "$venv" || skip "$python cannot make a virtual environment"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "ovui==0.3.0" "usd-core==25.11" "numpy>=2" pytest pytest-timeout "grpcio>=1.62" "protobuf>=4.25" \
    || skip "pip could not install ovui"
  touch "$venv/.ready"
fi

# ovui links to CUDA's driver even where it draws with OpenGL. The tests give it a library whose
# eight functions all answer "no device" (100 = CUDA_ERROR_NO_DEVICE).
if ! [ -e "$venv/stub/libcuda.so.1" ]; then
  mkdir -p "$venv/stub"
  for name in cuInit cuCtxCreate_v2 cuCtxDestroy_v2 cuDeviceGet cuDestroyExternalMemory \
    cuExternalMemoryGetMappedBuffer cuImportExternalMemory cuMemcpyDtoH_v2; do
    echo "int $name(void) { return 100; }"
  done | gcc -shared -fPIC -x c -o "$venv/stub/libcuda.so.1" - || skip "gcc could not build the stand-in of libcuda"
fi
echo "studio window: ready in $venv"
