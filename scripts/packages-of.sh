#!/usr/bin/env bash
# Builds the packages of another commit:  packages-of.sh REV FOLDER
set -euo pipefail

[[ $# -eq 2 ]] || { echo "packages-of: a revision and a folder are wanted" >&2; exit 64; }
cd "$(dirname "$0")/.."
folder=$(realpath -m "$2") source=$PWD/target/upgrade/src
export CARGO_TARGET_DIR=$PWD/target/upgrade/build

if [[ -e $source ]]; then
  git -C "$source" checkout --quiet --detach "$(git rev-parse "$1")"
else
  git worktree prune
  git worktree add --quiet --detach "$source" "$1"
fi
cd "$source"
cargo build --locked --release --package netmaster --package node --package netctl
rm -rf "$folder"
debian/rules clean binary BINDIR="$CARGO_TARGET_DIR/release" DEBDIR="$folder"
