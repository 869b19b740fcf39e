//! SCTP by published ports: packets of our own making, for the kernel may have no SCTP.

use std::net::{IpAddr, SocketAddr};

use nix::sys::signal::Signal;
use pontoon_tests::has_ipv6;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::{Background, run};
use pontoon_tests::scene::{HOST, HOST6, OUTSIDE, OUTSIDE6, Scene};

/// On a raw socket, the first step of an association (RFC 9260 section 5.1): with `ask ADDRESS PORT`
/// sends INIT and prints the address and port that INIT ACK comes from; with `answer PORT` answers
/// INITs, after a line about who asks. Either side takes a packet only if its CRC32c is right (section
/// 6.8, appendix A), so it proves that what came is what was sent.
const SCTP: &str = r#"
import ipaddress, socket, struct, sys

def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff

def packet(src, dst, tag, kind, initiate):
    chunk = struct.pack('>BBHIIHHI', kind, 0, 20, initiate, 65536, 1, 1, 7)
    head = struct.pack('>HHI', src, dst, tag)
    return head + struct.pack('<I', crc32c(head + bytes(4) + chunk)) + chunk

def parse(data):
    src, dst, tag = struct.unpack('>HHI', data[:8])
    crc, = struct.unpack('<I', data[8:12])
    if crc != crc32c(data[:8] + bytes(4) + data[12:]):
        sys.exit('a packet with a wrong checksum')
    return src, dst, tag, data[12], struct.unpack('>I', data[16:20])[0]

what, family, *arguments = sys.argv[1:]
ipv6 = family == '6'
s = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_RAW, 132)
s.settimeout(4)

def receive():
    data, peer = s.recvfrom(4096)
    return parse(data if ipv6 else data[(data[0] & 15) * 4:]), peer

if what == 'ask':
    host, port = arguments[0], int(arguments[1])
    s.sendto(packet(4242, port, 0, 1, 99), (host, 0))
    while True:
        (src, dst, tag, kind, _), peer = receive()
        if (dst, tag, kind) == (4242, 99, 2):
            print(ipaddress.ip_address(peer[0]), src)
            break
else:
    port = int(arguments[0])
    s.settimeout(None)
    print('ready', flush=True)
    while True:
        (src, dst, tag, kind, initiate), peer = receive()
        if (dst, kind) == (port, 1):
            print('asked by', ipaddress.ip_address(peer[0]), src, flush=True)
            s.sendto(packet(port, src, initiate, 2, 5), (peer[0], 0))
"#;

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "4" } else { "6" }
}

/// Who answers an INIT, if anybody does.
fn ask(from: &Namespace, to: IpAddr, port: u16) -> Option<SocketAddr> {
    let (to_text, port) = (to.to_string(), port.to_string());
    let mut command = from.command("python3");
    let output = run(command.args(["-c", SCTP, "ask", family(to), &to_text, &port]));
    assert!(!output.stderr.contains("checksum"), "{output}");
    let (address, port) = output.stdout.trim().split_once(' ')?;
    Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
}

// Feature: publishing source-preserved
// Conforms: LINUX-sctp-by-address
#[test]
fn sctp_is_published_from_port_to_same_port() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container(
        "web",
        &[
            "-p",
            "3868:3868/sctp",
            "-p",
            "3869/sctp,allow=198.51.100.0/24",
        ],
    );
    let other = scene.container("other", &[]);
    let told = scene.pontoon(&["port", "web", "3869/sctp"]).success();
    assert!(told.contains("0.0.0.0:3869"), "{told}");
    let worlds = [(HOST, OUTSIDE), (HOST6, OUTSIDE6)];
    for (host, outside) in worlds.into_iter().filter(|it| it.0.is_ipv4() || has_ipv6()) {
        let serve = |port: &str| {
            let mut command = web.namespace.command("python3");
            let mut server =
                Background::start(command.args(["-c", SCTP, "answer", family(host), port]));
            server.wait_for_output("ready");
            server
        };
        let mut server = serve("3868");
        let answer = ask(&scene.outside, host, 3868);
        assert_eq!(answer, Some(SocketAddr::new(host, 3868)), "from the wire");
        server.wait_for_output(&format!("asked by {outside} 4242"));
        let answer = ask(&other.namespace, host, 3868);
        assert_eq!(
            answer,
            Some(SocketAddr::new(host, 3868)),
            "from a container"
        );
        server.wait_for_output(&format!("asked by {host} 4242"));
        server.end(Signal::SIGKILL);

        let mut server = serve("3869");
        assert_eq!(ask(&scene.outside, host, 3869), None, "not on its list");
        server.end(Signal::SIGKILL);
    }
    let traffic = &scene.json(&["port", "web", "3868/sctp"])[0]["traffic"];
    let connections = if has_ipv6() { 4 } else { 2 };
    assert_eq!(traffic["connections"], connections, "{traffic}");

    for (spec, why) in [
        ("3870:3868/sctp", "publish 3868:3868"),
        ("127.0.0.1:3870:3870/sctp", "nothing carries sctp"),
        ("3868:3868/sctp", "published for container web already"),
    ] {
        let error = scene.pontoon(&["publish", "other", "-p", spec]).failure();
        assert!(error.contains(why), "{spec}: {error}");
    }
    scene
        .pontoon(&["unpublish", "web", "-p", "3868/sctp"])
        .success();
    let published = scene.json(&["inspect", "web"])["published"].clone();
    assert_eq!(published.as_array().map(Vec::len), Some(1), "{published}");
}
