#!/usr/bin/env bash
# Makes a cluster of two machines that have a systemd of their own (systemd-nspawn): runs `provision.sh`
# with the packages of `make deb` and the quick start, then restarts, kills and upgrades units while
# containers ping each other, and reboots.
set -euo pipefail
cd "$(dirname "$0")/.."

base=$PWD/target/machines/base
work=$(mktemp -d "$PWD/target/machines.XXXXXX")
net=contiv-m$$
bus=nats://TOKEN@198.18.250.11:4222

fail() { echo "machines: $1" >&2; exit 1; }

# until_true WHAT COMMAND…: waits for it, a minute at most.
until_true() {
  local what=$1 tries
  shift
  for ((tries = 120; ; tries--)); do
    "$@" >/dev/null 2>&1 && return
    ((tries > 0)) || fail "waited in vain: $what"
    sleep 0.5
  done
}

declare -A nspawn
start() {
  # In the background the shell would hand on its own terminal; units find /proc/sys as on a machine.
  SYSTEMD_NSPAWN_API_VFS_WRITABLE=1 systemd-nspawn --quiet --directory="$work/$1" --machine="$net-$1" \
    --network-namespace-path="/run/netns/$net-$1" --capability=all --private-users=no --register=no \
    --keep-unit --resolv-conf=off --console=pipe --bind-ro="$PWD:/src" \
    --system-call-filter='@keyring bpf' --boot \
    </dev/null >>"$work/$1.log" 2>&1 &
  nspawn[$1]=$!
  until_true "machine $1 boots" booted "$1"
}
booted() { [[ $(inside "$1" systemctl is-system-running) =~ ^(running|degraded)$ ]]; }
stop() {
  kill "${nspawn[$1]}" 2>/dev/null || true
  wait "${nspawn[$1]}" || true
}
inside() {
  local machine=$1
  shift
  nsenter --target "$(pgrep -P "${nspawn[$machine]}")" --mount --uts --ipc --net --pid --cgroup \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "CONTIV_NATS_URL=$bus" "$@"
}

clean() {
  local machine
  for machine in "${!nspawn[@]}"; do stop "$machine"; done
  for machine in 1 2; do ip netns delete "$net-$machine" 2>/dev/null || true; done
  ip netns delete "$net" 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT

# The machines reach only each other, so this folder holds the packages that apt would download.
if [[ ! -e $base/complete ]]; then
  rm -rf "$base"
  mirror=$(awk '/^URIs:/ || $1 == "deb" { print $2; exit }' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null)
  debootstrap --variant=minbase --include=adduser,busybox-static,ca-certificates,containernetworking-plugins,dbus,docker.io,iproute2,iptables,nftables,procps,systemd-sysv \
    bookworm "$base" "$mirror" >"$work/debootstrap.log" ||
    { tail "$work/debootstrap.log"; fail "no root file system"; }
  touch "$base/complete"
fi

ip netns add "$net"
ip -n "$net" link add underlay type bridge
ip -n "$net" link set underlay up
for machine in 1 2; do
  cp -a --reflink=auto "$base" "$work/$machine"
  # apt fails at once instead of waiting for a mirror.
  rm -f "$work/$machine/etc/machine-id" "$work/$machine/etc/resolv.conf"
  systemd-id128 new >"$work/$machine/etc/machine-id"
  echo "machine-$machine" >"$work/$machine/etc/hostname"
  # nspawn leaves the controllers of cgroup v1 read-only.
  mkdir -p "$work/$machine/etc/systemd/system/docker.service.d"
  cat >"$work/$machine/etc/systemd/system/docker.service.d/cgroups.conf" <<'END'
[Service]
ExecStartPre=-/bin/sh -c 'for at in /sys/fs/cgroup /sys/fs/cgroup/*; do mount -o remount,rw $at || mount -o remount,rw,bind $at; done'
END
  ip netns add "$net-$machine"
  ip -n "$net-$machine" link add eth1 type veth peer name "m$machine" netns "$net"
  ip -n "$net" link set "m$machine" master underlay up
  ip -n "$net-$machine" address add "198.18.250.1$machine/24" dev eth1
  ip -n "$net-$machine" link set eth1 up
  ip -n "$net-$machine" link set lo up
  start "$machine"
done

provision() {
  local serve=()
  [[ $1 != 1 ]] || serve=(--serve 198.18.250.11)
  inside "$1" /src/scripts/provision.sh --node "node-$1" --underlay eth1 --bus "$bus" "${serve[@]}" \
    >"$work/provision.log" 2>&1 || { tail "$work/provision.log"; fail "machine $1 isn't provisioned"; }
}
pid() { inside 1 systemctl show --property=MainPID "$1"; }
for machine in 1 2; do provision "$machine"; done
before=$(pid netplugin)
provision 1
[[ $(pid netplugin) == "$before" ]] || fail "provisioned again, netplugin was restarted"

inside 1 netctl net create contiv-net --subnet=20.1.1.0/24 --gateway=20.1.1.254 --pkt-tag=1001
run() { inside "$1" docker run -itd --restart=always --net=contiv-net "--name=$2" contiv/busybox /bin/sh; }
run 1 web
run 2 db
inside 1 docker exec web ping -c 3 db

inside 1 docker exec web sh -c 'exec ping -i 0.05 db' >"$work/ping" &
ping=$!
until_true "web has pinged db" grep -q seq= "$work/ping"
inside 1 systemctl restart netplugin
inside 1 systemctl restart netmaster
before=$(pid netplugin)
inside 1 systemctl kill --kill-who=main --signal=KILL netplugin
restarted() { [[ $(pid netplugin) != "$before" ]] && inside 1 systemctl is-active netplugin; }
until_true "netplugin is started again" restarted
debs=(target/deb/{contiv-bus,netmaster,netplugin,netctl}_*.deb)
inside 1 apt-get install -q -y --reinstall "${debs[@]/#//src/}" >/dev/null
inside 1 netctl wait --converged --timeout 30s
inside 1 docker exec web killall -INT ping
wait "$ping" || true
tail -n 3 "$work/ping"
grep -q ' 0% packet loss' "$work/ping" || fail "packets were lost while units restarted"

stop 2
start 2
until_true "db is back after a reboot" inside 1 docker exec web ping -c 1 db
inside 1 netctl status
echo "machines: provisioned, restarted, killed, upgraded and rebooted under systemd"
