#!/usr/bin/env bash
# jj.sh DIR: puts jj, and the libraries that it needs, into DIR, from Debian's unstable packages: older ones have no jj.
# It runs by its own loader: DIR/jj. Nothing is installed on this machine.
set -euo pipefail
directory=$1
mirror=$(grep -hEo '^(deb|URIs:) .*' -r --include=*.list --include=*.sources /etc/apt 2>/dev/null |
    grep -Eo -m1 'https?://[^ ]+' || true)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,cache,root,parts}
echo "deb [trusted=yes check-valid-until=no] $mirror sid main" > "$work/sources.list"
touch "$work/status"
apt=(apt-get -q -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o Dir::Etc::SourceList="$work/sources.list"
    -o Dir::Etc::SourceParts="$work/parts" -o Dir::State::status="$work/status" -o APT::Sandbox::User= -o Acquire::Languages=none
    -o APT::Get::AllowUnauthenticated=true)
"${apt[@]}" update >/dev/null
cd "$work/root"
needed=(jujutsu libc6 libgcc-s1 libmimalloc3)
"${apt[@]}" download "${needed[@]}" >/dev/null
for package in *.deb; do dpkg -x "$package" .; done
libraries=$work/root/usr/lib/$(uname -m)-linux-gnu
mkdir -p "$directory/lib"
cp -L "$libraries"/{libc.so.6,libm.so.6,libgcc_s.so.1,libmimalloc.so.3,ld-linux-*.so.*} "$directory/lib/"
cp usr/bin/jj "$directory/jj-itself"
loader=$(basename "$directory"/lib/ld-linux-*)
printf '#!/bin/sh\nhere=$(dirname "$(readlink -f "$0")")\nexec "$here/lib/%s" --library-path "$here/lib" "$here/jj-itself" "$@"\n' "$loader" > "$directory/jj.new"
chmod 755 "$directory/jj.new"
mv "$directory/jj.new" "$directory/jj"
