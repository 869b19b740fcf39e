//! Super-frames pass whole: bulk through the switch against a bare veth pair, in one run.
//!
//! Alone in its file, so that nothing else runs beside it.

use std::net::IpAddr;
use std::time::Duration;

use pontoon_tests::iperf::tcp_rate;
use pontoon_tests::is_root_or_skip;
use pontoon_tests::namespace::{Namespace, join};
use pontoon_tests::scene::{BEYOND, HOST, LOOPBACK, PORT_KINDS, Scene};

fn gigabits(rate: f64) -> String {
    format!("{:.1} Gbit/s", rate / 1e9)
}

#[test]
fn bulk_is_in_proportion_to_a_bare_veth() {
    if !is_root_or_skip() {
        return;
    }
    let (left, right) = (Namespace::new("left"), Namespace::new("right"));
    join((&left, "eth0"), (&right, "eth0"));
    left.ip("addr add 10.0.0.1/24 dev eth0");
    right.ip("addr add 10.0.0.2/24 dev eth0");
    let right_address: IpAddr = [10, 0, 0, 2].into();
    let veth = tcp_rate(&left, (right_address, 5201), (&right, 5201), 3);
    eprintln!("a veth pair alone: {}", gigabits(veth));

    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let a = scene.container("a", &[]);
        let b = scene.container("b", &["-p", "5202:5202"]);
        let beyond = (BEYOND, 5203);
        let ways = [
            (
                "container to container",
                &a.namespace,
                (b.address, 5201),
                &b.namespace,
                5201,
            ),
            (
                "container to outside, masqueraded",
                &a.namespace,
                beyond,
                &scene.outside,
                5203,
            ),
            (
                "outside to published",
                &scene.outside,
                (HOST, 5202),
                &b.namespace,
                5202,
            ),
            (
                "loopback to published, relayed",
                &scene.host,
                (LOOPBACK, 5202),
                &b.namespace,
                5202,
            ),
        ];
        for (way, from, address, to, port) in ways {
            // The better of two, as the machine has other things to do as well.
            let rate = (0..2)
                .map(|_| tcp_rate(from, address, (to, port), 3))
                .fold(0.0, f64::max);
            let ratio = rate / veth;
            eprintln!("{port_kind}, {way}: {}, {ratio:.2} of it", gigabits(rate));
            // Frame by frame it would be a twentieth of a veth pair. A slower machine, or one that is
            // busy, is held to the proportion.
            assert!(
                rate > 4e9 || veth < 10e9 && ratio >= 0.3,
                "{port_kind}, {way}: {} where a veth pair does {}",
                gigabits(rate),
                gigabits(veth)
            );
        }
    }
}

#[test]
fn an_idle_daemon_uses_no_cpu() {
    let Some(scene) = Scene::new() else { return };
    let _a = scene.container("a", &["-p", "8080:80"]);
    std::thread::sleep(Duration::from_secs(2));
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", scene.daemon_pid()));
        let stat = stat.expect("the daemon runs");
        // utime and stime are the 14th and 15th fields; the second one may hold blanks.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
        let parse = |index: usize| fields[index].parse::<u64>().expect("a number of ticks");
        parse(12) + parse(13)
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(4));
    let used = ticks() - before;
    // 100 ticks a second: less than one in a hundred.
    assert!(used <= 4, "{used} ticks of CPU in 4 idle seconds");
}
