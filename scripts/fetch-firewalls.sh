#!/usr/bin/env bash
# Puts Debian's ufw and firewalld into .tools/firewalls, which a lab's host lays over its own /usr
# and /etc. The packages are unpacked, never installed: a firewall would start on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

target=.tools/firewalls
[[ ! -d $target ]] || exit 0

packages=(firewalld python3-firewall python3-nftables ufw)
mkdir -p .tools
work=$(mktemp -d "$PWD/.tools/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt downloads as a user of its own.
chmod 755 "$work"
download() { (cd "$work" && apt-get download -q "${packages[@]}"); }
# Old package lists name packages that are gone, so the second try updates the lists.
if ! download >"$work/log" 2>&1 && ! { apt-get update -q && download; } >>"$work/log" 2>&1; then
  cat "$work/log" >&2
  echo "fetch-firewalls: apt could not download ${packages[*]}; see above" >&2
  exit 1
fi

for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/root"; done
# Debian's /lib is a link into /usr.
cp -r "$work/root/lib" "$work/root/usr/"
# Does the same as the post-installation script of ufw's package.
cp "$work"/root/usr/share/ufw/{*.init,ufw.conf,iptables/*.rules} "$work/root/etc/ufw/"
mkdir "$work/firewalls"
mv "$work"/root/{etc,usr} "$work/firewalls/"
mv "$work/firewalls" "$target"
