# Run as root on Debian 12 with rust installed. `make demo` is the quick start, `make test` is everything.

SHELL := /bin/bash
BIN   := target/debug
.DEFAULT_GOAL := build

.PHONY: tools vrf-tools cni-tools firewall-tools build demo demo-down test test-vrf test-vrf-long check bench bench-vrf deb test-upgrade test-machines

tools:
	@scripts/install-deps.sh
	@scripts/fetch-nats.sh

vrf-tools: tools
	@scripts/install-deps.sh binutils qemu-system-x86
	@scripts/vrf/fetch-kernel.sh

# Runtimes that call CNI plugins, and plugins to be chained with.
cni-tools: tools
	@scripts/install-deps.sh containernetworking-plugins podman

# Hosts' own firewalls, and what firewalld needs to run.
firewall-tools: tools
	@scripts/install-deps.sh dbus-daemon gir1.2-glib-2.0 python3-dbus python3-gi
	@scripts/fetch-firewalls.sh

build:
	cargo build --locked --workspace --bins

# The demo runs what the tests run: the dev profile, whose dependencies are optimised.
demo: tools build
	@$(BIN)/lab demo

demo-down:
	@if [ -x $(BIN)/lab ]; then $(BIN)/lab down --lab demo; else echo "demo-down: nothing was built, so nothing runs"; fi

test: vrf-tools cni-tools firewall-tools build
	@scripts/test.sh

# The same tests on a kernel that has VRF devices, in a VM: what make test has of them, or all.
test-vrf: vrf-tools build
	@scripts/vrf/run.sh

test-vrf-long: vrf-tools build
	@scripts/vrf/run.sh --long

check:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --workspace --no-deps --document-private-items
	cargo deny --locked check bans licenses sources
	cargo shear --locked

# Figures need the machine for themselves, and daemons built for speed.
bench: tools
	@scripts/install-deps.sh dnsperf
	cargo build --locked --release --workspace --bins
	CONTIV_BIN_DIR=$(CURDIR)/target/release cargo bench --locked --package chaos-tests
	cargo bench --locked --package node-datapath --bench policy

# What a VRF costs against a namespace, both in the VM: ratios alone mean something there.
bench-vrf: vrf-tools build
	@scripts/vrf/run.sh node-datapath/datapath:--ignored,--nocapture,figures

# Packages for Debian 12 in target/deb: contiv-bus, netmaster, netplugin, netctl.
deb: tools
	@scripts/install-deps.sh debhelper
	cargo build --locked --release --workspace --bins
	debian/rules clean binary

# From the packages of another commit, by default the one before, to these, under running workloads.
FROM ?= HEAD^
test-upgrade: deb
	cargo build --locked --package lab
	@scripts/packages-of.sh $(FROM) target/upgrade/deb
	@scripts/upgrade.sh target/upgrade/deb target/deb

# Two machines with a systemd of their own, made a cluster out of the packages.
test-machines: deb
	@scripts/install-deps.sh debootstrap systemd-container
	@scripts/machines.sh
