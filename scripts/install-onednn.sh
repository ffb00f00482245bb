#!/bin/sh
# Puts oneDNN 3 (for Linux on x86-64, with GNU OpenMP) into the user's cache folder, where --precision bfloat16 finds it. It needs
# Python's pip (41 MB are downloaded from where pip is set to look) and libgomp.so.1 (Debian: libgomp1). Whoever has the library
# by other means (Debian 13: apt install libdnnl3) needs no copy, or names it: ADVCL_ONEDNN=/path/to/libdnnl.so.3, or the folder above it.
#
#   sh scripts/install-onednn.sh [FOLDER]
set -eu
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || { echo "error: this package of oneDNN is for Linux on x86-64" >&2; exit 2; }
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/advcl/onednn}
python=${PYTHON:-python3}
mkdir -p "$folder"
[ ! -e "$folder/libdnnl.so.3" ] || { echo "$folder/libdnnl.so.3"; exit 0; }
work=$(mktemp -d "$folder/install.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --no-deps --only-binary :all: --dest "$work" onednn-cpu-gomp
"$python" -m zipfile -e "$work"/onednn_cpu_gomp-*.whl "$work"
library=$(find "$work" -name 'libdnnl.so.3' | head -n 1)
[ -n "$library" ] || { echo "error: there is no libdnnl.so.3 in what pip gave" >&2; exit 1; }
mv "$library" "$folder/libdnnl.so.3"
echo "$folder/libdnnl.so.3"
