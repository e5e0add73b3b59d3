#!/usr/bin/env bash
# Runs test programs of this workspace on Debian's kernel in a VM, where domains are VRF devices:
#
#     scripts/vrf/run.sh [PACKAGE/TEST[+netem][:NAME,NAME...]...] | --long
#
# such as node-datapath/datapath:drift. Without arguments it runs the tests of `make test`; --long runs all.
# With +netem the underlay loses one packet in a hundred and delays each by 20 ms.
# The VM's only file system is an initrd made of this machine's own programs, ours, and the
# kernel's modules; with a suite chaos-tests/docker… in it a disk, since an engine's containers
# can't leave an initrd (pivot_root(2)). The VM is ended after $VRF_TIME_LIMIT seconds; the console's
# last lines are printed then. $VRF_WORK is the folder of one VM; several may run.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Tests of the differences of VRFs; floods and hammers take minutes under emulation.
datapath=endpoints_reach,senders_stamp,outer_port,full_packets,observed_state,drift_is_reported
datapath+=,connections_end,empty_desired,dns_to_any,quick_start_policy,sender_is
datapath+=,out_of_its_vrf,rule_of_vrfs,next_owner,packets_from_vxlan,docker_firewall_passes,host_addresses,host_settings
suites=(
  "node-datapath/datapath:$datapath" chaos-tests/quick_start:tenants_with_the_same_subnet,other_names
  chaos-tests/restart:killed_netplugin chaos-tests/host_firewall:reload_by_an_engine
  chaos-tests/domains:node_moves
)
limit=${VRF_TIME_LIMIT:-900}
case ${1-} in
  "") ;;
  --long)
    # Without tests that name namespaces.
    suites=(
      node-datapath/datapath chaos-tests/quick_start chaos-tests/restart chaos-tests/policy
      chaos-tests/domains chaos-tests/host_firewall chaos-tests/identity chaos-tests/lost
      chaos-tests/foreign_log chaos-tests/unreachable chaos-tests/restart+netem
      chaos-tests/policy+netem chaos-tests/cni:call,numbers,del_succeeds
      chaos-tests/docker:containers_find,bridge_and_firewall
    )
    limit=${VRF_TIME_LIMIT:-7200}
    ;;
  *) suites=("$@") ;;
esac
kernel=.tools/linux
work=${VRF_WORK:-target/vrf}
root=$work/root
engine=false
[[ ${suites[*]} != *chaos-tests/docker* ]] || engine=true

fail() {
  echo "vrf: $*" >&2
  exit 1
}

for need in "$kernel/vmlinuz" .tools/nats-server; do
  [[ -e $need ]] || fail "$need is missing: \`make vrf-tools\` fetches it"
done

# Copies files to the same paths below the root, each with the libraries that it is linked with.
add() {
  local file
  for file in "$@" $(ldd "$@" 2>/dev/null | grep -o '/[^ :]*\.so[^ :]*' | sort -u); do
    file=$(realpath "$(dirname "$file")")/$(basename "$file")
    mkdir -p "$root$(dirname "$file")"
    cp --dereference --no-clobber "$file" "$root$file"
  done
}

# Our binaries are stripped: the VM needs no debug information.
add_ours() {
  strip -o "$root/$2" "$1"
  add $(ldd "$1" | grep -o '/[^ :]*\.so[^ :]*')
}

make_root() {
  rm -rf "$root"
  mkdir -p "$root"/{dev,proc,sys,run,tmp,root,opt/contiv,tests,names,netem,etc,var/lib,usr/{bin,sbin,lib,lib64}}
  local link
  for link in bin sbin lib lib64; do ln -s "usr/$link" "$root/$link"; done
  ln -s /run "$root/var/run"

  # Programs that busybox lacks, or whose options differ there.
  local name path
  for name in bash conntrack cp dig dnsmasq find getent hostname ip iptables iptables-legacy \
    iptables-legacy-restore iptables-nft iptables-nft-restore iptables-restore mount nft nsenter ping \
    setsid sh sleep ss sysctl tc umount; do
    path=$(command -v "$name") || fail "this machine has no program $name: \`make tools\` installs it"
    add "$path"
  done
  if $engine; then
    add /usr/bin/{containerd,containerd-shim-runc-v2,docker,docker-init} /usr/sbin/{dockerd,docker-proxy,runc}
  fi
  # iptables loads its matches and targets from here.
  add /usr/lib/x86_64-linux-gnu/xtables/*.so
  add "$(command -v busybox)"
  for name in $(busybox --list); do
    [[ -e $root/usr/bin/$name || -e $root/usr/sbin/$name ]] || ln -s busybox "$root/usr/bin/$name"
  done
  # The kernel's path of modprobe.
  ln -s ../bin/busybox "$root/usr/sbin/modprobe"

  add /etc/nsswitch.conf /etc/protocols /etc/services
  printf 'root:x:0:0::/root:/bin/sh\n' >"$root/etc/passwd"
  printf 'root:x:0:\n' >"$root/etc/group"
  printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
  cp -r "$kernel/lib/modules" "$root/usr/lib/"
  install -m 755 scripts/vrf/init "$root/init"
}

add_tests() {
  local built suite names name program number=0
  built=$(cargo test --locked --workspace --no-run --message-format=json \
    | jq -r 'select(.reason == "compiler-artifact" and .profile.test and .target.kind == ["test"])
             | . as $artifact
             | (.package_id | split("#")[1] | select(contains("@")) | split("@")[0]) // (.manifest_path | split("/")[-2])
               | . + "/" + $artifact.target.name + " " + $artifact.executable')
  for suite in "${suites[@]}"; do
    IFS=: read -r suite names <<<"$suite"
    netem=""
    [[ $suite != *+netem ]] || netem="loss 1% delay 20ms"
    suite=${suite%+netem}
    program=$(awk -v suite="$suite" '$1 == suite {print $2}' <<<"$built")
    [[ -n $program ]] || fail "there is no test program $suite; there are: $(awk '{print $1}' <<<"$built" | sort | tr '\n' ' ')"
    number=$((number + 1))
    # A name that matches no test would pass.
    for name in ${names//,/ }; do
      [[ $name == --* ]] || "$program" --list | grep "$name.*: test$" >/dev/null || fail "no test of $suite matches $name"
    done
    add_ours "$program" "tests/$number-${suite/\//.}"
    printf '%s\n' "${names//,/ }" >"$root/names/$number-${suite/\//.}"
    printf '%s\n' "$netem" >"$root/netem/$number-${suite/\//.}"
  done
  for program in contiv-cni netctl netmaster netplugin; do
    add_ours "target/debug/$program" "opt/contiv/$program"
  done
  cp .tools/nats-server "$root/opt/contiv/"
}

pack() {
  (cd "$1" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initrd"
}

make_root
add_tests
machine=(-m 1024)
if $engine; then
  rm -f "$work/disk"
  truncate -s 6G "$work/disk"
  mke2fs -q -t ext4 -E root_owner=0:0 -d "$root" "$work/disk"
  machine=(-m 2048 -drive "if=virtio,format=raw,cache=unsafe,file=$work/disk")
  rm -rf "$work/boot"
  mkdir -p "$work"/boot/{dev,proc,root,usr/bin,usr/lib}
  for name in bin sbin lib lib64; do ln -s "usr/$name" "$work/boot/$name"; done
  ln -s bin "$work/boot/usr/sbin"
  cp "$root/usr/bin/busybox" "$work/boot/usr/bin/"
  for name in mount umount modprobe sh switch_root; do ln -s busybox "$work/boot/usr/bin/$name"; done
  cp -r "$kernel/lib/modules" "$work/boot/usr/lib/"
  install -m 755 scripts/vrf/init-disk "$work/boot/init"
  pack "$work/boot"
else
  pack "$root"
fi

# Emulates even if /dev/kvm exists: with nested virtualisation it may exist and hang.
# The machine type q35 has the timer that the kernel's delay calibration waits for; microvm hasn't.
rm -f "$work/status"
started=$SECONDS
timeout --foreground "$limit" qemu-system-x86_64 -accel tcg -M q35 -cpu max -smp 2 "${machine[@]}" \
  -nodefaults -display none -no-reboot -serial stdio -serial "file:$work/status" \
  -kernel "$kernel/vmlinuz" -initrd "$work/initrd" -append "console=ttyS0 panic=-1 quiet" </dev/null \
  | sed -u 's/\r$//' || true
status=$(tr -d '\r' <"$work/status" 2>/dev/null || true)
[[ -n $status ]] || fail "the VM didn't get to its end in $limit s; above is the end of its console"
[[ $status == 0 ]] || fail "FAILED on $(basename "$kernel"/lib/modules/*) with VRF domains after $((SECONDS - started)) s"
echo "vrf: ${suites[*]} passed on $(basename "$kernel"/lib/modules/*) with VRF domains in $((SECONDS - started)) s"
