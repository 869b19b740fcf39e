# SCTP of the kernel's own, which this one has: associations by a published port, from the wire and
# from a neighbour, between neighbours, and out to the world. The host would ABORT what is for no
# association of its own.
#
# The uplink adds up no checksums, so what leaves by it is as a wire would carry it: the kernel leaves
# the CRC of SCTP to a veth, and no vnet header can say that it is one.
#
# PONTOON_KIND is the kind of ports, PONTOON_LENGTHS are the lengths of the messages.
. "${0%/*}/common.sh"

ip netns add host
ip netns add outside
for name in host outside; do
    ip -n $name link set lo up
done
ip -n host link add eth0 type veth peer name eth0 netns outside
ip -n host addr add 192.0.2.1/24 dev eth0
ip -n host link set eth0 up
ip -n outside addr add 192.0.2.2/24 dev eth0
ip -n outside link set eth0 up
for name in host outside; do
    ip netns exec $name ethtool -K eth0 tx off >/dev/null
done

start_daemon --port-kind "$PONTOON_KIND"

cat >/run/sctp.py <<'END'
import socket, sys, threading, time
SCTP = 132
def receive(s, length):
    data = b''
    while len(data) < length:
        more = s.recv(length - len(data))
        if not more:
            sys.exit('cut off after %d bytes' % len(data))
        data += more
    return data
def answer(s):
    try:
        while True:
            data = s.recv(65536)
            if not data:
                break
            s.sendall(data)
    except OSError:
        pass
what, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
if what == 'serve':
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP)
    listener.bind((host, port))
    listener.listen()
    while True:
        s, peer = listener.accept()
        threading.Thread(target=answer, args=(s,), daemon=True).start()
until = time.monotonic() + 10
while True:
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP)
    s.settimeout(5)
    s.bind(('0.0.0.0', int(sys.argv[5])))
    try:
        s.connect((host, port))
        break
    except OSError as error:
        if time.monotonic() > until:
            sys.exit('no association: %s' % error)
        time.sleep(0.2)
for length in map(int, sys.argv[4].split(',')):
    sent = bytes(at % 251 for at in range(length))
    for _ in range(5):
        s.sendall(sent)
        if receive(s, length) != sent:
            sys.exit('something else came back')
print('%s answered' % host)
END

on_host "$PONTOON_BIN" run -d --name web -p 3868:3868/sctp -- python3 /run/sctp.py serve 0.0.0.0 3868
ip netns exec outside python3 /run/sctp.py serve 192.0.2.2 3868 &
server=$!
# By a port of its choice, as symmetrical protocols want it.
ask() {
    to=$1
    shift
    "$@" python3 /run/sctp.py ask "$to" 3868 "$PONTOON_LENGTHS" 5000 || {
        cat /run/log
        on_host "$PONTOON_BIN" drops
        on_host "$PONTOON_BIN" conntrack
        fail "$* asks $to"
    }
}
ask 192.0.2.1 ip netns exec outside
ask 192.0.2.1 on_host "$PONTOON_BIN" run --rm --
ask web on_host "$PONTOON_BIN" run --rm --
ask 192.0.2.2 on_host "$PONTOON_BIN" run --rm --
# What was held for the last one is no obstacle.
on_host "$PONTOON_BIN" publish web -p 5000:5000/sctp || fail 'the port is held still'
kill $server $daemon
wait $daemon || fail "the daemon's exit status is $?"
