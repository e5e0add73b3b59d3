#!/usr/bin/env bash
# Puts Debian's cloud kernel, which has VRF devices, into .tools/linux: vmlinuz and the modules of
# networking and of a disk. The package is unpacked, never installed: the machine's own boot isn't touched.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=.tools/linux
# An older copy lacks the disk's module.
! compgen -G "$target/lib/modules/*/kernel/drivers/virtio" >/dev/null || exit 0

arch=$(dpkg --print-architecture)
if [[ $arch != amd64 ]]; then
  echo "fetch-kernel: the VM is amd64's, this machine is $arch: run make test-vrf on an amd64 one" >&2
  exit 1
fi

# The package depends on the one of the current version.
newest() {
  apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ {print $2; exit}'
}
mkdir -p .tools
work=$(mktemp -d "$PWD/.tools/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt downloads as a user of its own.
chmod 755 "$work"
# Old package lists name packages that are gone, so the second try updates the lists.
download() { package=$(newest) && [[ -n $package ]] && (cd "$work" && apt-get download -q "$package"); }
if ! download >"$work/log" 2>&1 && ! { apt-get update -q && download; } >>"$work/log" 2>&1; then
  cat "$work/log" >&2
  echo "fetch-kernel: apt could not download linux-image-cloud-amd64's kernel; see above" >&2
  exit 1
fi

mkdir "$work/all" "$work/linux"
dpkg-deb --fsys-tarfile "$work"/linux-image-*.deb | tar -C "$work/all" -x ./boot ./lib
mv "$work"/all/boot/vmlinuz-* "$work/linux/vmlinuz"
from=("$work"/all/lib/modules/*)
modules=$work/linux/lib/modules/${from[0]##*/}
mkdir -p "$modules/kernel"
mv "${from[0]}"/modules.* "$modules"
for part in arch/x86/crypto crypto drivers/block/virtio_blk.ko drivers/net drivers/virtio fs/overlayfs \
  lib net; do
  mkdir -p "$modules/kernel/$(dirname "$part")"
  mv "${from[0]}/kernel/$part" "$modules/kernel/$part"
done
busybox depmod -b "$work/linux" "${from[0]##*/}"
rm -rf "$target"
mv "$work/linux" "$target"
