#!/usr/bin/env bash
# Runs the whole suite once. Tests with real clusters mostly wait, so a few more of them run in parallel
# than there are cores.
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=$(($(nproc) + 2))
failed=()

if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked --workspace --no-fail-fast --test-threads "$jobs" || failed+=("tests")
else
  cargo test --locked --workspace --no-fail-fast --lib --bins --tests -- --test-threads "$jobs" || failed+=("tests")
fi
cargo test --locked --workspace --doc --quiet || failed+=("doc tests")
scripts/vrf/run.sh || failed+=("VRF domains")

echo
if [[ ${#failed[@]} -gt 0 ]]; then
  (IFS=,; echo "make test: FAILED: ${failed[*]}") >&2
  exit 1
fi
echo "make test: everything passed in ${SECONDS} s"
