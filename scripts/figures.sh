#!/usr/bin/env bash
# Figures for the note on a change: the demo's time, `docker run --rm` of `true` on contiv-net against Docker's
# bridge and no network at all, in one interleaved run, and what the daemons weigh when idle.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-21}
lab=target/debug/lab
export CONTIV_LAB=figures-$$
work=$(mktemp -d)
trap '"$lab" down; rm -rf "$work"' EXIT

"$lab" demo | sed -n 's/^Done in \(.*\); the cluster.*/demo: \1/p'
"$lab" down
"$lab" up --nodes 1 --docker --docker-bridge >/dev/null
on_node() { "$lab" exec node-1 -- "$@"; }
"$lab" exec ctl -- netctl net create contiv-net --subnet=20.1.1.0/24 --gateway=20.1.1.254 >/dev/null

for network in contiv-net bridge none; do
  on_node docker run --rm --net="$network" contiv/busybox true
done
for ((i = 0; i < runs; i++)); do
  for network in contiv-net bridge none; do
    start=$EPOCHREALTIME
    on_node docker run --rm --net="$network" contiv/busybox true
    end=$EPOCHREALTIME
    echo $(((${end/[.,]/} - ${start/[.,]/}) / 1000)) >>"$work/$network"
  done
done
for network in contiv-net bridge none; do
  median=$(sort -n "$work/$network" | sed -n "$(((runs + 1) / 2))p")
  echo "docker run --rm --net=$network true: median $median ms of $runs"
done

"$lab" status | while read -r process pid _; do
  case $process in
    nats | netmaster-* | netplugin@*) echo "$process: $(awk '/^VmRSS/ {print $2}' "/proc/$pid/status") kB resident" ;;
  esac
done
