#!/usr/bin/env bash
# Builds the programs and plays the whole story, for real, in a throwaway directory: ./demo.sh [--yes]
set -euo pipefail
cd "$(dirname "$0")"

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

if ! command -v cargo >/dev/null; then
    echo "demo.sh: cargo is missing" >&2
    echo "hint: install Rust with rustup, https://rustup.rs" >&2
    exit 69
fi
missing=""
command -v git >/dev/null || missing="$missing git"
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
if [ -n "$missing" ]; then
    echo "demo.sh: installing$missing: git makes the demo's commits, the C compiler builds libgit2"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

cargo build --release -p keyhatch-broker -p keyhatch-inspect
packaging/static-helper.sh "${CARGO_TARGET_DIR:-target}/release"
programs=${CARGO_TARGET_DIR:-target}/release

# Without a terminal there is nobody to ask.
[ -t 0 ] || set -- --yes

if [ "$(id -u)" != 0 ]; then exec "$programs/keyhatch" demo "$@"; fi

# keyhatch serves an ordinary user, so root's demo is played by one.
user=keyhatch-demo
if ! id "$user" >/dev/null 2>&1; then
    echo "demo.sh: making the user $user: keyhatch does not run as root"
    useradd --create-home --shell /bin/bash "$user"
fi
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cp "$programs"/keyhatch "$programs"/keyhatch-run "$programs"/keyhatch-helper "$programs"/keyhatch-inspect "$place"
chown -R "$user" "$place"
runuser -u "$user" -- env HOME="$(getent passwd "$user" | cut -d: -f6)" "$place/keyhatch" demo "$@"
