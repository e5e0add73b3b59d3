#!/usr/bin/env bash
# Makes a Debian 12 machine a node of a Contiv cluster, with the packages of `make deb`. A second run
# changes only what differs. The Vagrantfile runs it; run it on your own machines, too.
#
#   provision.sh --node NAME --underlay IF|CIDR|ADDR --bus nats://TOKEN@HOST:PORT [--serve ADDR] [--packages DIR]
#
# --bus-file FILE: instead of --bus, a file with that address, so that the token stands on no command line.
# --serve ADDR: this machine also carries the bus, listening on ADDR, and a netmaster.
set -euo pipefail

usage() {
  echo "provision: $1; see the head of $0" >&2
  exit 64
}

node='' underlay='' bus='' serve='' packages=$(dirname "$0")/../target/deb
while [[ $# -gt 0 ]]; do
  [[ $# -ge 2 ]] || usage "$1 wants a value"
  case $1 in
    --node) node=$2 ;;
    --underlay) underlay=$2 ;;
    --bus) bus=$2 ;;
    --bus-file) bus=$(sed -e '/^\(#\|$\)/d' -e 's/^CONTIV_NATS_URL=//' -e q "$2") ;;
    --serve) serve=$2 ;;
    --packages) packages=$2 ;;
    *) usage "unknown: $1" ;;
  esac
  shift 2
done
[[ -n $node && -n $underlay && -n $bus ]] || usage "--node, --underlay and --bus (or --bus-file) are needed"
[[ $EUID -eq 0 ]] || usage "run it as root"
[[ $bus =~ ^nats://([A-Za-z][^@/]*)@([^@/]+):([0-9]+)$ ]] ||
  usage "--bus is nats://TOKEN@HOST:PORT, the token beginning with a letter"
token=${BASH_REMATCH[1]} port=${BASH_REMATCH[3]}

wanted=(netplugin netctl)
[[ -z $serve ]] || wanted+=(netmaster contiv-bus)
debs=()
for name in "${wanted[@]}"; do
  found=("$packages/$name"_*.deb)
  [[ -e ${found[0]} ]] || usage "no package $name in $packages: run \`make deb\` first"
  debs+=("$(realpath "${found[-1]}")")
done

# put FILE MODE: standard input becomes FILE; succeeds when that changed it.
put() {
  local new
  new=$(mktemp "$1.XXXXXX")
  cat >"$new"
  chmod "$2" "$new"
  if cmp -s "$new" "$1"; then
    rm "$new"
    return 1
  fi
  mv "$new" "$1"
}

mkdir -p /etc/contiv /etc/default
changed=()
put /etc/contiv/contiv.env 600 <<<"CONTIV_NATS_URL=$bus" && changed+=(netplugin)
put /etc/default/netplugin 644 <<END && changed+=(netplugin)
CONTIV_NODE=$node
CONTIV_UNDERLAY=$underlay
NETPLUGIN_OPTIONS=
END
if [[ -n $serve ]]; then
  put /etc/contiv/bus.env 600 <<END && changed+=(contiv-bus netmaster)
CONTIV_NATS_HOST=$serve
CONTIV_NATS_PORT=$port
CONTIV_NATS_TOKEN=$token
CONTIV_NATS_STORE=/var/lib/contiv-bus
END
  if ! nats-server --version >/dev/null 2>&1; then
    server=$(dirname "$0")/../.tools/nats-server
    [[ -x $server ]] || usage "no nats-server 2.12 or newer here: install the official release"
    install -m 755 "$server" /usr/local/bin/nats-server
  fi
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# The configuration is written; netplugin starts before the engine.
apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold "${debs[@]}"
apt-get install -q -y --no-install-recommends docker.io busybox-static

if [[ -n $serve ]]; then
  systemctl start contiv-bus
  for ((tries = 60; ; tries--)); do
    CONTIV_NATS_URL=$bus netmaster init && break
    ((tries > 0)) || exit 1
    sleep 1
  done
fi
[[ ${#changed[@]} -eq 0 ]] || systemctl restart "${changed[@]}"

# The image of the tutorials, without a registry.
if ! docker image inspect contiv/busybox >/dev/null 2>&1; then
  root=$(mktemp -d)
  mkdir -p "$root"/{bin,etc,tmp}
  for applet in $(/bin/busybox --list); do ln -s busybox "$root/bin/$applet"; done
  # The list names busybox too.
  cp --remove-destination /bin/busybox "$root/bin/"
  install -m 755 "$(dirname "$0")/busybox-wget.sh" --no-target-directory "$root/bin/wget"
  tar -C "$root" -c . | docker import - contiv/busybox >/dev/null
  rm -r "$root"
fi
echo "provision: $node is up; on it: set -a; . /etc/contiv/contiv.env; netctl node ls"
