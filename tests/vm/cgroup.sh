#!/usr/bin/env bash
# The limits of a cgroup, on a Debian with systemd, in a virtual machine: this machine's own may have no cgroup v2.
#
# Run by hand, as root, from anywhere: tests/vm/cgroup.sh. It needs qemu-system-x86 and mmdebstrap, takes four minutes the first
# time and one later (the disk is kept in target/vm), and ends with "N passed, M failed". cargo build --workspace first.
set -euo pipefail
cd "$(dirname "$0")/../.."
vm=$PWD/target/vm
kernel=linux-image-6.1.0-50-cloud-amd64
port=${KEYHATCH_VM_PORT:-22871}

build() {
    mkdir -p "$vm"
    ssh-keygen -q -t ed25519 -N '' -f "$vm/key" <<<y >/dev/null
    # shellcheck disable=SC2016
    mmdebstrap --quiet --variant=minbase \
        --include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,openssh-server,git,kmod,iproute2,python3-minimal,$kernel \
        --customize-hook='chroot "$1" useradd -m -s /bin/bash -u 1000 kh' \
        --customize-hook='chroot "$1" sh -c "passwd -d root; mkdir -p /var/lib/systemd/linger; touch /var/lib/systemd/linger/kh"' \
        bookworm "$vm/root.tar"
    rm -rf "$vm/root" && mkdir "$vm/root" && tar -C "$vm/root" -xf "$vm/root.tar" && rm "$vm/root.tar"
    for home in home/kh root; do
        mkdir -p "$vm/root/$home/.ssh" && cp "$vm/key.pub" "$vm/root/$home/.ssh/authorized_keys"
    done
    chown -R 1000:1000 "$vm/root/home/kh"
    cat >"$vm/root/etc/systemd/system/net.service" <<'UNIT'
[Unit]
DefaultDependencies=no
Before=ssh.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for d in /sys/class/net/e*; do d=$$(basename $$d); ip link set $$d up; ip addr add 10.0.2.15/24 dev $$d; done'
UNIT
    mkdir -p "$vm/root/etc/systemd/system/sysinit.target.wants"
    ln -s ../net.service "$vm/root/etc/systemd/system/sysinit.target.wants/net.service"
    for unit in e2scrub_reap.service apparmor.service getty@tty1.service; do
        ln -sf /dev/null "$vm/root/etc/systemd/system/$unit"
    done
    ln -sf /lib/systemd/system/multi-user.target "$vm/root/etc/systemd/system/default.target"
    mke2fs -q -t ext4 -O ^has_journal -d "$vm/root" "$vm/disk.img" 1500M
}

on() {
    timeout "${2:-120}" ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=5 \
        -i "$vm/key" -p "$port" "$1@127.0.0.1" bash -s
}

passed=0 failed=0
check() {
    if grep -qF -- "$2" <<<"$3"; then
        passed=$((passed + 1)) && echo "ok: $1"
    else
        failed=$((failed + 1)) && printf 'FAILED: %s\n  wanted: %s\n%s\n' "$1" "$2" "$3"
    fi
}

[ -e "$vm/disk.img" ] || build
# The disk is not written: every run starts from the same one.
qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 1024 -display none -serial "file:$vm/serial.log" -no-reboot -snapshot \
    -kernel "$vm"/root/boot/vmlinuz-* -initrd "$vm"/root/boot/initrd.img-* \
    -append "root=/dev/vda rw console=ttyS0 quiet panic=-1 lsm=landlock,lockdown,yama,integrity,bpf mitigations=off" \
    -drive "file=$vm/disk.img,format=raw,if=virtio" -device virtio-rng-pci \
    -nic "user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" &
qemu=$!
trap 'kill $qemu' EXIT
until on kh 10 <<<true 2>/dev/null; do kill -0 $qemu; done

programs=$(mktemp -d)
cp target/debug/keyhatch target/debug/keyhatch-run target/debug/keyhatch-helper "$programs"
strip "$programs"/*
tar -C "$programs" -czf - . | timeout 120 ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i "$vm/key" \
    -p "$port" kh@127.0.0.1 'mkdir -p bin p && tar -C bin -xzf -'
rm -r "$programs"
on kh <<'SCRIPT'
cat >~/t.toml <<'POLICY'
name = "t"
description = "a test"
[sandbox]
require = ["cgroup"]
[limits]
memory = "64MiB"
swap = "none"
processes = 20
cpu = "50%"
POLICY
SCRIPT

# The same acts under the user's systemd and under a delegated directory.
acts() {
    cat <<'SCRIPT'
cd ~/p
~/bin/keyhatch run --policy ~/t.toml -- sh -c "cat /proc/self/cgroup; echo ran" 2>&1
~/bin/keyhatch run --json --policy ~/t.toml -- python3 -c "x = bytearray(200 << 20)" 2>&1
~/bin/keyhatch run --policy ~/t.toml -- bash -c 'for i in $(seq 40); do sleep 20 & done 2>/dev/null; exit 0' 2>&1
~/bin/keyhatch run --policy ~/t.toml -- python3 -c "
import time
wall, cpu = time.time(), time.process_time()
while time.time() - wall < 3: pass
print('share is half' if (time.process_time() - cpu) / 3 < 0.65 else 'share is all')" 2>&1
find /sys/fs/cgroup -name '*keyhatch*' | wc -l | sed 's/^/left over: /'
SCRIPT
}
judge() {
    check "$1: the command runs, in what it sees as the root of cgroups" $'0::/\nran' "$2"
    check "$1: memory.max is said" "limits: killed: memory.max 64 MiB" "$2"
    check "$1: the result names memory" '"resource_exceeded":"memory"' "$2"
    check "$1: pids.max is said" "limits: reached: pids.max 20" "$2"
    check "$1: half a processor is half" "share is half" "$2"
    check "$1: nothing is left" "left over: 0" "$2"
}
judge systemd "$(acts | on kh 240)"
delegated=$(
    on root 240 <<SCRIPT
pkill -u kh keyhatch; systemctl stop user@1000.service
mkdir -p /sys/fs/cgroup/delegated/shell && echo '+memory +pids +cpu' >/sys/fs/cgroup/cgroup.subtree_control
chown kh /sys/fs/cgroup/delegated /sys/fs/cgroup/delegated/cgroup.{procs,subtree_control} /sys/fs/cgroup/delegated/shell{,/cgroup.procs}
echo \$\$ >/sys/fs/cgroup/delegated/shell/cgroup.procs
cat >/tmp/acts <<'ACTS'
$(acts)
ACTS
# Not su: its session would be moved to a cgroup of its own.
setpriv --reuid 1000 --regid 1000 --clear-groups env -i HOME=/home/kh USER=kh PATH=/usr/bin:/bin \\
    KEYHATCH_CGROUP=/sys/fs/cgroup/delegated bash /tmp/acts
SCRIPT
)
judge delegated "$delegated"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
