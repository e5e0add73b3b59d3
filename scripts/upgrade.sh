#!/usr/bin/env bash
# Upgrades a running cluster from one set of packages to another, as apt does on a machine: replaces
# files and restarts services, host by host. Containers ping each other meanwhile, and no answer may be
# missing.
#
#   upgrade.sh FOLDER-OF-OLD-PACKAGES FOLDER-OF-NEW-PACKAGES
set -euo pipefail

[[ $# -eq 2 ]] || { echo "upgrade: two folders of packages are wanted; see the head of $0" >&2; exit 64; }
old=$(realpath "$1") new=$(realpath "$2")
cd "$(dirname "$0")/.."

work=$(mktemp -d)
export CONTIV_LAB=upgrade-$$ CONTIV_BIN_DIR=$work/usr/bin
export CONTIV_NATS_SERVER=$PWD/.tools/nats-server
lab=$PWD/target/debug/lab
trap '"$lab" down; rm -rf "$work"' EXIT

unpack() {
  local name
  for name in netmaster netplugin netctl; do dpkg-deb -x "$1/$name"_*.deb "$work"; done
  "$CONTIV_BIN_DIR/netplugin" --version
}
netctl() { "$lab" exec ctl -- netctl "$@"; }
connects() { "$lab" exec db -- timeout 2 bash -c "</dev/tcp/$web/$1" 2>/dev/null; }

unpack "$old"
"$lab" up --nodes 2 --masters 2 >/dev/null
netctl net create contiv-net --subnet=20.1.1.0/24 --gateway=20.1.1.254
netctl policy create prod_web
netctl policy rule-add prod_web 1 -direction=in -protocol=tcp -action=deny
netctl policy rule-add prod_web 2 -direction=in -protocol=tcp -port=80 -action=allow -priority=10
netctl group create contiv-net front -policy=prod_web
web=$("$lab" run node-1 --net contiv-net --group front --name web | cut -f2)
"$lab" run node-2 --net contiv-net --name db >/dev/null
for port in 80 8080; do
  "$lab" exec web -- busybox nc -ll -p "$port" -e cat >/dev/null 2>&1 &
done
for ((tries = 100; ; tries--)); do
  connects 80 2>/dev/null && break
  ((tries > 0)) || { echo "upgrade: web doesn't answer before the upgrade" >&2; exit 1; }
done

"$lab" exec db -- ping -q -i 0.01 -w 600 "$web" >"$work/ping" &
ping=$!
unpack "$new"
for process in netmaster-1 node-1 netmaster-2 node-2; do
  "$lab" restart "$process"
  netctl wait --converged --timeout 30s
  connects 80 || { echo "upgrade: port 80 is shut after the restart of $process" >&2; exit 1; }
  ! connects 8080 || { echo "upgrade: port 8080 is open after the restart of $process" >&2; exit 1; }
done
netctl net create later --subnet=20.1.2.0/24
"$lab" run node-1 --net later --name late >/dev/null
"$lab" exec db -- pkill -INT -x ping || true
wait "$ping" || true
cat "$work/ping"
grep -q ' 0% packet loss' "$work/ping" || { echo "upgrade: packets were lost" >&2; exit 1; }
echo "upgrade: from $(basename "$old") to $(basename "$new") with no packet lost"
