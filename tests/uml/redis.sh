# redis-server in a container, redis-cli on the host: PONG on every address of the host, and
# another PONG for a client beyond the uplink where there is a veth to make an uplink of.
. "${0%/*}/proof.sh"

ip netns add host
ip -n host link set lo up
ip -n host addr add 203.0.113.5/32 dev lo
addresses='127.0.0.1 203.0.113.5'
if [ -d /sys/module/veth ]; then
    ip netns add outside
    ip -n outside link set lo up
    ip -n host link add eth0 type veth peer name eth0 netns outside
    ip -n host addr add 192.0.2.1/24 dev eth0
    ip -n host link set eth0 up
    ip -n host route add default via 192.0.2.2
    ip -n outside addr add 192.0.2.2/24 dev eth0
    ip -n outside link set eth0 up
    addresses="$addresses 192.0.2.1"
fi

start_daemon

on_host "$PONTOON_BIN" run -d --name redis -p 6379:6379 -- \
    redis-server --save '' --appendonly no --protected-mode no --dir /run/tmp ||
    { cat /run/log; fail 'run'; }

ping_redis() {
    tries=0
    until [ "$(ip netns exec "$1" redis-cli -h "$2" -p 6379 ping 2>&1)" = PONG ]; do
        tries=$((tries + 1))
        [ $tries -lt 40 ] || {
            cat /run/log
            on_host "$PONTOON_BIN" drops
            fail "no PONG from $2 to $1"
        }
        sleep 0.1
    done
    echo "PONG from $2 to $1"
}
for address in $addresses; do
    ping_redis host "$address"
done
[ ! -d /sys/module/veth ] || ping_redis outside 192.0.2.1
# By its name, from another container.
[ "$(on_host "$PONTOON_BIN" run --rm -- redis-cli -h redis ping 2>&1)" = PONG ] ||
    { cat /run/log; fail 'no PONG by name'; }
echo 'PONG by name'
kill $daemon
wait $daemon || fail "the daemon's exit status is $?"
