#!/bin/sh
# Shows the runs in LOG_DIR at the first free port from 6006 on, to this machine only unless told: sh tensorboard.sh --host 0.0.0.0
cd "$(dirname "$0")" || exit 1
log=$(sed -n "s/^LOG_DIR[^=]*= *['\"]\([^'\"]*\)['\"].*/\1/p" settings.py | sed "s|^~/|$HOME/|")
[ -d "$log" ] || { echo "tensorboard.sh: there is nothing in LOG_DIR = $log yet; train first" >&2; exit 1; }
[ -x .venv/bin/tensorboard ] && PATH=$PWD/.venv/bin:$PATH
exec tensorboard --logdir "$log" --host localhost "$@"
