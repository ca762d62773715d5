#!/bin/sh
# Removes the logs and checkpoints of the runs named, or of all runs: the files that a run leaves, by name,
# and then its folders if they are empty. Trunk weights (models/pretrained) stay.
#     sh clean.sh [NAME ...]
cd "$(dirname "$0")" || exit 1
read_setting() { sed -n "s/^$1[^=]*= *['\"]\([^'\"]*\)['\"].*/\1/p" settings.py | sed "s|^~/|$HOME/|"; }
log=$(read_setting LOG_DIR)
model=$(read_setting MODEL_DIR)
[ -n "$log" ] && [ -n "$model" ] || { echo "clean.sh: settings.py has no LOG_DIR or MODEL_DIR in quotes" >&2; exit 1; }
none=yes
remove() {  # what a run left in a folder, if one of its marks is there
    [ "$(basename "$1")" != pretrained ] || return
    is_run=
    for file in "$1"/log.jsonl "$1"/scores.json "$1"/rescore.json "$1"/latest.pth "$1"/best.pth "$1"/final.pth "$1"/step_*.pth; do
        [ -f "$file" ] && is_run=yes
    done
    [ -n "$is_run" ] || return
    none=
    for file in "$1"/log.jsonl "$1"/scores.json "$1"/rescore.json "$1"/settings.py "$1"/machine.json "$1"/source.zip \
        "$1"/events.out.tfevents.* "$1"/latest.pth "$1"/best.pth "$1"/final.pth "$1"/step_*.pth \
        "$1"/scores_classes.csv "$1"/scores_confusion.csv "$1"/scores_inside.csv \
        "$1"/rescore_classes.csv "$1"/rescore_confusion.csv "$1"/rescore_inside.csv \
        "$1"/*.pth.*.part "$1"/*.json.*.part "$1"/*.csv.*.part; do
        [ ! -f "$file" ] || rm -f "$file"
    done
    if rmdir "$1" 2>/dev/null; then
        echo "removed $1"
    else
        echo "removed the run in $1; the folder stays, with: $(ls -Aq "$1" | tr '\n' ' ')"
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
