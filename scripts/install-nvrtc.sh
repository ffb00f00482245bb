#!/bin/sh
# Puts NVRTC, NVIDIA's compiler as a library, into the user's cache folder, where the kernels of the target cuda-fused and their
# tests find it. It needs no GPU and no CUDA, only Python's pip (60 MB are downloaded from where pip is set to look). Whoever has
# CUDA or a PyTorch for it can name that library instead: ADVCL_NVRTC=/path/to/libnvrtc.so.13, or the folder above it.
#
#   sh scripts/install-nvrtc.sh [FOLDER]
set -eu
case "$(uname -s)" in
  Darwin) echo "error: NVIDIA has no NVRTC for macOS; kernels are compiled on Linux or Windows" >&2; exit 2 ;;
esac
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/advcl/nvrtc}
python=${PYTHON:-python3}
mkdir -p "$folder"
"$python" -m pip download --quiet --no-deps --only-binary :all: --dest "$folder" nvidia-cuda-nvrtc
for wheel in "$folder"/nvidia_cuda_nvrtc-*.whl; do
  "$python" -m zipfile -e "$wheel" "$folder"
  rm "$wheel"
done
library=$(find "$folder" -name 'libnvrtc.so*' | head -n 1)
[ -n "$library" ] || { echo "error: there is no libnvrtc in what pip gave; see $folder" >&2; exit 1; }
echo "$library"
