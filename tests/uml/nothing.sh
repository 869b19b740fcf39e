uname -a
ip -br link
ls -l /dev/net /dev/null /proc/sys/net
iptables -L 2>&1
ls /proc/sys/net/ipv6 /proc/net/if_inet6
ip link add br0 type bridge
touch /usr/x
nproc
ip netns add foo; ip -n foo -br link
ip link add a type veth peer name b; ip -br link
ip tuntap add t0 mode tap; ip -br link
redis-server --port 6379 --save '' --dir /run >/run/redis.log 2>&1 &
sleep 0.5
redis-cli ping
echo $TMPDIR $PATH
id
exit 3
