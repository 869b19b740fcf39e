# Sourced by the other scripts: proves that this kernel is the floor that pontoon stands on.

. "${0%/*}/common.sh"

[ "$(grep -c '^processor' /proc/cpuinfo)" = 1 ] || fail 'more than one CPU'
[ ! -e /proc/net/if_inet6 ] || fail 'this kernel has IPv6'
[ ! -e /proc/net/ip_tables_names ] || fail 'this kernel has iptables'
ip link add br0 type bridge 2>/dev/null && fail 'this kernel has bridges'
# nf_tables speaks over NETLINK_NETFILTER, protocol 12.
python3 - <<'END' || fail 'this kernel has nf_tables'
import errno, socket, sys
try:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
except OSError as error:
    sys.exit(error.errno != errno.EPROTONOSUPPORT)
sys.exit(1)
END
modprobe bridge 2>/dev/null && fail 'modprobe works'
echo 'no bridge, no netfilter, no IPv6, one CPU, no modprobe'
