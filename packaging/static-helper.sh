#!/usr/bin/env bash
# Builds keyhatch-helper as one static file that starts in any image: packaging/static-helper.sh [DIRECTORY]
# (default: target/release, beside keyhatch, which copies it into each session's directory).
set -euo pipefail
cd "$(dirname "$0")/.."

into=${1:-target/release}
target=x86_64-unknown-linux-musl
flags=${RUSTFLAGS:-}
# Where rustup cannot have musl's libraries, this machine's own C library does, linked in: about three times as large.
if ! [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] && ! rustup target add "$target" >/dev/null 2>&1; then
    echo "static-helper.sh: $target cannot be had; linking this machine's C library in" >&2
    target=$(rustc -vV | sed -n 's/^host: //p')
    flags="$flags -C target-feature=+crt-static"
fi
# The package by name: with the whole workspace, features of the broker's crates would be built in.
RUSTFLAGS=$flags cargo build --quiet --locked -p keyhatch-helper --profile static --target "$target"
mkdir -p "$into"
# Beside and then over: a running helper keeps its own file.
cp "${CARGO_TARGET_DIR:-target}/$target/static/keyhatch-helper" "$into/.keyhatch-helper.new"
mv "$into/.keyhatch-helper.new" "$into/keyhatch-helper"
