#!/bin/sh
# Removes logs and checkpoints: of the runs named, or of all of them. Trunk weights (models/pretrained) stay.
#     sh clean.sh [NAME ...]
cd "$(dirname "$0")" || exit 1
log=$(sed -n "s/^LOG_DIR[^=]*= *['\"]\([^'\"]*\)['\"].*/\1/p" settings.py)
model=$(sed -n "s/^MODEL_DIR[^=]*= *['\"]\([^'\"]*\)['\"].*/\1/p" settings.py)
[ -n "$log" ] && [ -n "$model" ] || { echo "clean.sh: settings.py has no LOG_DIR or MODEL_DIR in quotes" >&2; exit 1; }
none=yes
remove() {  # a folder, if it holds what a run leaves behind; nothing else is touched
    case $(basename "$1") in pretrained) return;; esac
    for file in "$1"/log.jsonl "$1"/scores.json "$1"/latest.pth "$1"/best.pth "$1"/final.pth; do
        if [ -f "$file" ]; then rm -rf "$1" && echo "removed $1" && none=; return; fi
    done
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
