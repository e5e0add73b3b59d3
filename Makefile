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

# Installs runtimes that call CNI plugins, and plugins that can be chained with ours.
cni-tools: tools
	@scripts/install-deps.sh containernetworking-plugins podman

# Installs hosts' firewalls, and the packages that firewalld needs.
firewall-tools: tools
	@scripts/install-deps.sh dbus-daemon gir1.2-glib-2.0 python3-dbus python3-gi
	@scripts/fetch-firewalls.sh

build:
	cargo build --locked --workspace --bins

# The demo runs the same binaries as the tests: the dev profile, with optimised dependencies.
demo: tools build
	@$(BIN)/lab demo

demo-down:
	@if [ -x $(BIN)/lab ]; then $(BIN)/lab down --lab demo; else echo "demo-down: nothing was built, so nothing runs"; fi

test: vrf-tools cni-tools firewall-tools build
	@scripts/test.sh

# Runs tests on a kernel with VRF devices, in a VM: those that `make test` includes, or all.
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

# Measures. Needs an otherwise idle machine and release builds.
bench: tools
	@scripts/install-deps.sh dnsperf
	cargo build --locked --release --workspace --bins
	CONTIV_BIN_DIR=$(CURDIR)/target/release cargo bench --locked --package chaos-tests
	cargo bench --locked --package node-datapath --bench policy

# Compares a VRF with a namespace, both in the VM. Only ratios are meaningful there.
bench-vrf: vrf-tools build
	@scripts/vrf/run.sh node-datapath/datapath:--ignored,--nocapture,figures

# Builds packages for Debian 12 in target/deb: contiv-bus, netmaster, netplugin, netctl.
deb: tools
	@scripts/install-deps.sh debhelper
	cargo build --locked --release --workspace --bins
	debian/rules clean binary

# Upgrades from the packages of another commit (default: the one before) to these, under running workloads.
FROM ?= HEAD^
test-upgrade: deb
	cargo build --locked --package lab
	@scripts/packages-of.sh $(FROM) target/upgrade/deb
	@scripts/upgrade.sh target/upgrade/deb target/deb

# Provisions two machines that have a systemd of their own with the packages.
test-machines: deb
	@scripts/install-deps.sh debootstrap systemd-container
	@scripts/machines.sh
