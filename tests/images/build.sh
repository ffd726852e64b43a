#!/usr/bin/env bash
# Builds the root file systems that containers of the tests start from: images/build.sh DIRECTORY.
#
# Debian's own git of four releases, and what git needs to run: packages are unpacked, not configured, and what is never
# read is left out. A root that is there already, and is newer than this file, is kept. Each is a directory NAME and an archive NAME.tar of the same.
set -euo pipefail
into=$1
mkdir -p "$into"

# Release, the git that it has, and what else is in it: a signed push needs a fingerprint, which git asks of ssh-keygen.
releases="
bullseye 2.30
bookworm 2.39
trixie   2.47 openssh-client
sid      2.55
"
site=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' | grep -v security | head -n 1)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
# Old releases are archived and sid's list may be older than it says: both are signed all the same.
source="deb [signed-by=$keys check-valid-until=no] ${site:?apt knows no Debian mirror}"

build() {
    local release=$1 more=$2 root="$into/$1" work
    work=$(mktemp -d "$into/.$release.XXXXXX")
    # Packages are only unpacked, so no package's own script runs; git-lfs and perl's modules are not what is tested.
    mmdebstrap --quiet --variant=extract --include=git,dash,coreutils,sed,grep,base-files,findutils,bash,gpgv-,ca-certificates-,$more \
        --skip=output/dev "$release" "$work/root.tar" "$source $release main" 2>"$work/log" || {
        cat "$work/log" >&2
        return 1
    }
    mkdir "$work/root"
    tar -C "$work/root" --no-same-owner -xf "$work/root.tar" --exclude='./dev/*' --exclude='./usr/share/doc' --exclude='./usr/share/man' \
        --exclude='./usr/share/locale' --exclude='./usr/share/perl*' --exclude='./usr/lib/*/perl*' --exclude='./usr/share/i18n' --exclude='./usr/lib/*/gconv' \
        --exclude='./var/lib/apt' --exclude='./var/cache'
    [ -e "$work/root/bin/sh" ] || ln -s dash "$work/root/bin/sh"
    mkdir -p "$work/root"/{dev,proc,sys,tmp,run/keyhatch,work,root,etc}
    echo 'root:x:0:0:root:/root:/bin/sh' >"$work/root/etc/passwd"
    echo 'root:x:0:' >"$work/root/etc/group"
    # What engines put over, or would make: the root's files are nobody's to write there.
    touch "$work/root/etc"/{gitconfig,hosts,hostname,resolv.conf}
    [ -e "$work/root/etc/mtab" ] || ln -s /proc/mounts "$work/root/etc/mtab"
    # The same image whoever builds it: an ordinary user's tar leaves modes and owners of its own.
    chmod 1777 "$work/root/tmp"
    tar -C "$work/root" --owner=0 --group=0 --numeric-owner -cf "$work/packed.tar" .
    chmod 755 "$work/root"
    touch "$work/root"
    rm -rf "$root"
    mv "$work/packed.tar" "$into/$release.tar"
    mv "$work/root" "$root"
    rm -rf "$work"
}

pids=""
while read -r release _git more; do
    [ -n "$release" ] || continue
    [ "$into/$release" -nt "$0" ] && continue
    build "$release" "$more" &
    pids="$pids $!"
done <<<"$releases"
for pid in $pids; do wait "$pid"; done
