//! Whose address a published service sees, on every path: both families, both protocols.

use std::net::IpAddr;

use pontoon_tests::has_ipv6;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::scene::{
    ANY, ANY6, Container, HOST, HOST6, LOOPBACK, LOOPBACK6, OUTSIDE, OUTSIDE6, Scene,
};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, listen};

/// What the server sees of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Its own address.
    Own,
    /// The gateway's: the relay asks for who is on the host itself.
    Gateway,
    /// The address that it dialled, so that the answer comes back to where it went out (RFC 4787
    /// REQ-9).
    Dialled,
}

struct Family {
    any: IpAddr,
    host: IpAddr,
    loopback: IpAddr,
    outside: IpAddr,
    gateway: IpAddr,
    is_ipv4: bool,
}

impl Family {
    fn of(&self, container: &Container) -> IpAddr {
        let mut addresses = container.addresses.iter();
        let found = addresses.find(|it| it.is_ipv4() == self.is_ipv4);
        *found.expect("an address of each family")
    }
}

/// Who dials, by which address of its own, and what.
struct Path<'a> {
    name: &'static str,
    from: &'a Namespace,
    own: IpAddr,
    dialled: IpAddr,
    expected: Seen,
}

// Conforms: RFC4787-9
// Feature: source-preserved publish-paths source-matrix
#[test]
fn the_client_s_own_address_is_seen_wherever_it_can_be() {
    let Some(scene) = Scene::new() else { return };
    scene.pontoon(&["network", "create", "elsewhere"]).success();
    let web = scene.container("web", &["-p", "8080:8080", "-p", "8080:8080/udp"]);
    let same = scene.container("same", &[]);
    let elsewhere = scene.container("elsewhere", &["--net", "elsewhere"]);
    let endpoint = &scene.json(&["inspect", "web"])["endpoints"][0];
    let gateway = |at: usize| -> IpAddr {
        let gateway = endpoint["gateways"][at].as_str().expect("a gateway");
        gateway.parse().expect("an address")
    };
    let mut families = vec![Family {
        any: ANY,
        host: HOST,
        loopback: LOOPBACK,
        outside: OUTSIDE,
        gateway: gateway(0),
        is_ipv4: true,
    }];
    if has_ipv6() {
        families.push(Family {
            any: ANY6,
            host: HOST6,
            loopback: LOOPBACK6,
            outside: OUTSIDE6,
            gateway: gateway(1),
            is_ipv4: false,
        });
    }
    let mut wrong = Vec::new();
    for family in &families {
        let path = |name, from, own, dialled, expected| Path {
            name,
            from,
            own,
            dialled,
            expected,
        };
        let &Family {
            host,
            loopback,
            outside,
            ..
        } = family;
        let (inner, its_own) = (&same.namespace, family.of(&same));
        let (apart, its_own_there) = (&elsewhere.namespace, family.of(&elsewhere));
        let to_web = family.of(&web);
        let paths = [
            path("the wire", &scene.outside, outside, host, Seen::Own),
            path("the network itself", inner, its_own, to_web, Seen::Own),
            path("loopback", &scene.host, loopback, loopback, Seen::Gateway),
            path(
                "the host's own address",
                &scene.host,
                host,
                host,
                Seen::Gateway,
            ),
            path("hairpin", inner, its_own, host, Seen::Dialled),
            path(
                "hairpin to itself",
                &web.namespace,
                to_web,
                host,
                Seen::Dialled,
            ),
            path("another network", apart, its_own_there, host, Seen::Dialled),
        ];
        for path in &paths {
            let listener = listen(&web.namespace, (family.any, 8080));
            let tcp =
                Flow::open(path.from, (path.dialled, 8080), &listener).and_then(|mut flow| {
                    flow.exchange()?;
                    Ok(flow.seen_by_server())
                });
            drop(listener);
            let server = bind_udp(&web.namespace, (family.any, 8080));
            let udp = Datagrams::open(path.from, (path.dialled, 8080), server)
                .exchange(100)
                .map(|source| source.ip());
            let expected = match path.expected {
                Seen::Own => path.own,
                Seen::Gateway => family.gateway,
                Seen::Dialled => path.dialled,
            };
            for (protocol, seen) in [("tcp", tcp), ("udp", udp)] {
                let seen = seen.map(|ip| ip.to_canonical());
                if seen.as_ref().ok() != Some(&expected) {
                    let name = path.name;
                    wrong.push(format!("{name}, {protocol} to {}: {seen:?}", path.dialled));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "not what was expected:\n{}",
        wrong.join("\n")
    );
}
