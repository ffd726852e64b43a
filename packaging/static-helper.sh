#!/usr/bin/env bash
# Builds what starts in any image: keyhatch-helper, and keyhatch-run-static, which is `keyhatch run --inside` there. One
# static file each: packaging/static-helper.sh [DIRECTORY] (default: target/release, beside keyhatch, which copies them into
# each container's session directory). Where keyhatch is, the same runner becomes the host's own keyhatch-run: without a
# dynamic loader it starts in a fifth of the time.
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
mkdir -p "$into"
# Package, and its program's name there.
while read -r package name; do
    # Each package by name: with the whole workspace, features of the broker's crates would be built in.
    RUSTFLAGS=$flags cargo build --quiet --locked -p "$package" --profile static --target "$target"
    # Beside and then over: a running program keeps its own file.
    cp "${CARGO_TARGET_DIR:-target}/$target/static/$package" "$into/.$name.new"
    mv "$into/.$name.new" "$into/$name"
done <<'END'
keyhatch-helper keyhatch-helper
keyhatch-run keyhatch-run-static
END
if [ -e "$into/keyhatch" ]; then
    cp "$into/keyhatch-run-static" "$into/.keyhatch-run.new"
    mv "$into/.keyhatch-run.new" "$into/keyhatch-run"
fi
