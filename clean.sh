#!/bin/sh
# Removes logs and checkpoints: of the runs named, or of all of them. Trunk weights (models/pretrained) stay.
#     sh clean.sh [NAME ...]
cd "$(dirname "$0")" || exit 1
log=$(sed -n "s/^LOG_DIR = '\([^']*\)'.*/\1/p" settings.py)
model=$(sed -n "s/^MODEL_DIR = '\([^']*\)'.*/\1/p" settings.py)
[ -n "$log" ] && [ -n "$model" ] || { echo "clean.sh: settings.py has no LOG_DIR or MODEL_DIR in quotes" >&2; exit 1; }
none=yes
remove() {
    if [ "$(basename "$1")" != pretrained ] && { [ -d "$1" ] || [ -L "$1" ]; }; then
        rm -rf "$1" && echo "removed $1" && none=
    fi
}
if [ $# -gt 0 ]; then
    for name; do
        case $name in ''|.|..|*/*) echo "clean.sh: $name is not the name of a run" >&2; exit 2;; esac
        remove "$log/$name"; remove "$model/$name"
    done
else
    for run in "$log"/* "$model"/*; do remove "$run"; done
fi
[ -z "$none" ] || echo "nothing to remove in $log and $model"
