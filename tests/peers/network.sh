# Two machines in network namespaces, joined by a wire: the user's, where the broker runs, and the servers'. Run by an
# ordinary user in namespaces of its own, with the directory of hosts, resolv.conf and nsswitch.conf as its argument.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
directory=$1
ip link set lo up
for file in hosts resolv.conf nsswitch.conf; do mount --bind "$directory/$file" "/etc/$file"; done
setpriv --pdeathsig KILL unshare --net -- sh -c \
    'echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start; ip link set lo up; exec sleep infinity' &
servers=$!
while [ "$(readlink /proc/$servers/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link add user0 type veth peer name servers0 netns "$servers"
ip addr add 203.0.113.1/24 dev user0
ip addr add 2001:db8:1::1/64 dev user0 nodad
ip link set user0 up
on_servers() { nsenter --target "$servers" --net -- "$@"; }
on_servers ip link set servers0 up
# Public ones first; then what must be refused after resolution, and would answer if it were not.
for address in 203.0.113.10/24 203.0.113.11/24 203.0.113.53/24 \
    10.9.8.7/32 192.168.7.7/32 172.16.5.5/32 100.64.0.9/32 169.254.169.254/32 198.18.0.7/32; do
    on_servers ip addr add "$address" dev servers0
done
for address in 2001:db8:1::10/64 fd12::7/128 64:ff9b::a09:807/128 2002:a09:807::1/128; do
    on_servers ip addr add "$address" dev servers0 nodad
done
if [ -e "$directory/rate" ]; then
    on_servers tc qdisc add dev servers0 root tbf rate "$(cat "$directory/rate")" burst 1mb latency 50ms
fi
ip route add default via 203.0.113.10
ip -6 route add default via 2001:db8:1::10
echo "$$ $servers" >"$directory/ready.next"
mv "$directory/ready.next" "$directory/ready"
exec sleep infinity
