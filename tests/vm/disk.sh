#!/usr/bin/env bash
# Builds the disk and the kernels of the virtual machines that kernels.rs starts: a Debian with systemd and an ordinary user `kh`, and
# Debian's kernels of three releases. Everything lies in target/vm; what is there is not built again. Needs root and mmdebstrap.
set -euo pipefail
cd "$(dirname "$0")/../.."
vm=$PWD/target/vm
mkdir -p target
exec 9>target/vm.lock
flock 9
[ ! -e "$vm/ready" ] || exit 0
rm -rf "$vm" && mkdir -p "$vm/deb"
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' "Created-By: Packages" | awk '$2 == "bookworm" { print $1; exit }')
[ -n "$mirror" ] || { echo "disk.sh: no package source of bookworm is configured" >&2 && exit 1; }

# apt for one suite, with lists of its own: the machine's are left alone.
of() {
    local suite=$1 command=$2
    shift 2
    mkdir -p "$vm/apt/$suite"/{lists,cache}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$vm/apt/$suite/sources.list"
    "$command" -qq -o APT::Sandbox::User=root -o "Dir::State::Lists=$vm/apt/$suite/lists" -o "Dir::Cache=$vm/apt/$suite/cache" \
        -o "Dir::Etc::SourceList=$vm/apt/$suite/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::status=/dev/null "$@"
}
# The newest kernel for virtual machines, whose package names hold the version; later ones come in several packages.
kernel() {
    of "$1" apt-get update
    local version part
    version=$(of "$1" apt-cache search --names-only "^linux-image-$2-cloud-amd64\$" | cut -d' ' -f1 | sort -V | tail -1)
    version=${version#linux-image-}
    mkdir -p "$vm/deb/$version"
    for part in image base binary modules; do
        if [ -n "$(of "$1" apt-cache search --names-only "^linux-$part-${version//+/\\+}\$")" ]; then
            (cd "$vm/deb/$version" && of "$1" apt-get download "linux-$part-$version")
        fi
    done
}
kernel bookworm '6\.1\.[0-9.-]*'
kernel bookworm-backports '6\.12\.[0-9.]*\+deb12'
kernel trixie-backports '7\.[0-9.]*\+deb13'

# Lingering starts the user's systemd at boot.
# In a mount namespace of its own: what it mounts goes with it, also when it is killed.
unshare --mount mmdebstrap --quiet --variant=minbase \
    --include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,openssh-server,openssh-client,git,initramfs-tools,kmod,iproute2,python3,zstd,apparmor,linux-base \
    --customize-hook='chroot "$1" useradd -m -s /bin/bash -u 1000 kh' \
    --customize-hook='mkdir -p "$1/var/lib/systemd/linger" && touch "$1/var/lib/systemd/linger/kh"' \
    trixie "$vm/root.tar" "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main"
mkdir "$vm/root" && tar -C "$vm/root" -xf "$vm/root.tar" && rm "$vm/root.tar"
root=$vm/root

# The initial disks hold what finds the root file system, and nothing else.
echo "MODULES=list" >"$root/etc/initramfs-tools/conf.d/modules"
printf '%s\n' virtio_pci virtio_blk virtio_net ext4 >>"$root/etc/initramfs-tools/modules"
mkdir -p "$vm/kernels" "$root/usr/lib/modules"
for version in $(ls "$vm/deb"); do
    for package in "$vm/deb/$version"/*.deb; do
        dpkg -x "$package" "$vm/unpacked"
    done
    for directory in "$vm"/unpacked/{usr/,}lib/modules/"$version"; do
        [ ! -d "$directory" ] || cp -a "$directory" "$root/usr/lib/modules/"
    done
    cp "$(find "$vm/unpacked" -name "config*" -path "*$version*" -print -quit)" "$root/boot/config-$version"
    cp "$(find "$vm/unpacked" -name "vmlinuz*" -print -quit)" "$vm/kernels/$version.vmlinuz"
    chroot "$root" depmod "$version"
    chroot "$root" mkinitramfs -o "/boot/initrd" "$version"
    mv "$root/boot/initrd" "$vm/kernels/$version.initrd"
    rm -rf "$vm/unpacked"
done

ssh-keygen -q -t ed25519 -N '' -f "$vm/key"
for home in home/kh root; do
    mkdir -p "$root/$home/.ssh" && cp "$vm/key.pub" "$root/$home/.ssh/authorized_keys"
done
chown -R 1000:1000 "$root/home/kh"
cat >"$root/etc/systemd/system/net.service" <<'UNIT'
[Unit]
DefaultDependencies=no
Before=ssh.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for d in /sys/class/net/e*; do d=$$(basename $$d); ip link set $$d up; ip addr add 10.0.2.15/24 dev $$d; ip route add default via 10.0.2.2; done'
UNIT
mkdir -p "$root/etc/systemd/system/sysinit.target.wants"
ln -s ../net.service "$root/etc/systemd/system/sysinit.target.wants/net.service"
# /tmp lies on the disk: a tmpfs has extended attributes of the user only in later kernels. What a test wants of AppArmor, it loads.
for unit in tmp.mount apparmor.service systemd-binfmt.service e2scrub_reap.service getty@tty1.service systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
rm -rf "$root"/usr/share/{doc,man,locale} "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
mke2fs -q -t ext4 -O ^has_journal -d "$root" "$vm/disk.img" 2500M
rm -rf "$root" "$vm/deb" "$vm/apt"
chown -R --reference=Cargo.toml "$vm"
touch "$vm/ready"
