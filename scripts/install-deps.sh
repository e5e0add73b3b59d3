#!/usr/bin/env bash
# Installs the Debian packages that the lab, the demo and the tests need, and those in its arguments.
# Does nothing and prints nothing if all are installed.
set -euo pipefail

packages=(
  busybox-static   # the demo's container image
  conntrack
  dnsmasq-base     # the resolvers of the lab's hosts
  dnsutils
  docker.io        # one engine for each node of the demo
  gcc
  iproute2
  iptables
  iputils-ping
  jq
  libc-ares-dev    # resolvers that containers bring along: c-ares' and musl's
  libc6-dev
  make
  musl-tools
  nftables
  util-linux
  "$@"
)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
# Any Python with pip suffices; Debian's is installed only if there is none.
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
[[ ${#missing[@]} -gt 0 ]] || exit 0

if [[ $EUID -ne 0 ]]; then
  echo "install-deps: missing: ${missing[*]}; run this as root" >&2
  exit 1
fi

echo "install-deps: installing ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  cat "$log" >&2
  echo "install-deps: apt could not install ${missing[*]}; see above" >&2
  exit 1
fi
