//! Limits of endpoints and faults on request: bulk keeps to its rate and reaches it, pings are late,
//! lost or doubled as often as asked, partitions stop all and heal.

use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use pontoon_tests::eventually;
use pontoon_tests::iperf::{iperf, tcp_rate};
use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::run_within;
use pontoon_tests::scene::{BEYOND, Container, Scene};

/// What `ping -q` counts.
#[derive(Debug)]
struct Pings {
    sent: u64,
    received: u64,
    duplicates: u64,
    /// The shortest round trip, in milliseconds.
    least: f64,
    most: f64,
}

/// So many echo requests, one every so many seconds, and a second's wait for the last.
#[track_caller]
fn ping(from: &Namespace, to: IpAddr, count: u32, interval: &str) -> Pings {
    let mut command = from.command("ping");
    command.args(["-q", "-W", "1", "-i", interval, "-c", &count.to_string()]);
    let output = run_within(command.arg(to.to_string()), Duration::from_secs(60));
    let text = output.stdout;
    // "100 packets transmitted, 91 received, +3 duplicates, 9% packet loss, time 99ms"
    let number_before = |word: &str| {
        let before = text.split(word).next().filter(|it| it.len() < text.len())?;
        let number = before.rsplit([' ', '\n', '+']).find(|it| !it.is_empty())?;
        number.parse::<u64>().ok()
    };
    // "rtt min/avg/max/mdev = 40.1/40.2/40.4/0.1 ms"
    let times: Vec<f64> = text.split(" = ").nth(1).map_or(Vec::new(), |times| {
        let times = times.split(['/', ' ']);
        times.filter_map(|it| it.parse().ok()).collect()
    });
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    Pings {
        sent: number_before(" packets transmitted").unwrap_or_else(|| panic!("{text}")),
        received: number_before(" received").unwrap_or(0),
        duplicates: number_before(" duplicates").unwrap_or(0),
        least: at(0),
        most: at(2),
    }
}

/// Is `count` of `sent` what a chance would bring? Five standard deviations of the binomial
/// distribution: one run in a million is further off.
#[track_caller]
fn is_likely(count: u64, sent: u64, chance: f64) {
    let expected = sent as f64 * chance;
    let deviation = (expected * (1.0 - chance)).sqrt();
    let off = (count as f64 - expected).abs();
    assert!(
        off <= 5.0 * deviation,
        "{count} of {sent}, where {expected} ± {deviation} were expected"
    );
}

/// A rate as a part of its limit, the best of some tries as the machine has other things to do as
/// well: a burst covers 20 ms, and a thread may wait longer for its CPU.
#[track_caller]
fn reaches(limit: f64, measure: impl Fn() -> f64) -> f64 {
    let mut best = 0_f64;
    for _ in 0..6 {
        let ratio = measure() / limit;
        assert!(ratio < 1.02, "{ratio} of the limit");
        best = best.max(ratio);
        if best >= 0.9 {
            break;
        }
    }
    assert!(best >= 0.9, "{best} of the limit");
    best
}

// Feature: limits moby-26767
#[test]
fn one_tcp_stream_keeps_to_its_limit_and_reaches_it() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &["--rate-out", "100mbit"]);
    let b = scene.container("b", &[]);
    let stream = |from: &Container, to: &Container| {
        tcp_rate(
            &from.namespace,
            (to.address, 5201),
            (&to.namespace, 5201),
            3,
        )
    };
    let out = reaches(100e6, || stream(&a, &b));
    eprintln!("100 Mbit/s from the container: {out:.3} of it");
    // The other way nothing holds.
    assert!(stream(&b, &a) > 300e6);

    // Changed while it runs, and both ways.
    scene
        .pontoon(&["limit", "a", "--rate-out", "off", "--rate-in", "100mbit"])
        .success();
    let inward = reaches(100e6, || stream(&b, &a));
    eprintln!("100 Mbit/s to the container: {inward:.3} of it");
    scene
        .pontoon(&["limit", "a", "--rate-out", "1gbit", "--rate-in", "1gbit"])
        .success();
    let out = reaches(1e9, || stream(&a, &b));
    eprintln!("1 Gbit/s from the container: {out:.3} of it");
    let inward = reaches(1e9, || stream(&b, &a));
    eprintln!("1 Gbit/s to the container: {inward:.3} of it");
    // To the world as well, where the frames are translated.
    scene
        .pontoon(&["limit", "a", "--rate-out", "50mbit"])
        .success();
    let beyond = || tcp_rate(&a.namespace, (BEYOND, 5203), (&scene.outside, 5203), 3);
    let out = reaches(50e6, beyond);
    eprintln!("50 Mbit/s to the world: {out:.3} of it");

    scene.pontoon(&["limit", "a", "--clear"]).success();
    let free = stream(&a, &b);
    assert!(free > 1.5e9, "{free} without a limit");
}

// Feature: limits
#[test]
fn packets_are_limited_and_the_drops_have_a_name() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &[]);
    let b = scene.container("b", &["--pps-in", "1000"]);
    // How many of 5,000 a second arrive within three seconds.
    let measure = || {
        let options = ["-u", "-b", "20M", "-l", "500", "-t", "3"];
        let end = iperf(
            &a.namespace,
            (b.address, 5201),
            (&b.namespace, 5201),
            &options,
        );
        let count = |name: &str| {
            end["sum"][name]
                .as_f64()
                .unwrap_or_else(|| panic!("no {name}: {end}"))
        };
        count("packets") - count("lost_packets")
    };
    // Some of the thousand are the control connection's.
    reaches(3_075.0, measure);
    assert!(scene.drops("RateLimited") > 8_000);
}

// Feature: limits
#[test]
fn limits_are_told_and_outlive_the_daemon() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let options = [
        "--rate-out",
        "8mbit",
        "--burst-out",
        "20kb",
        "--pps-in",
        "5000",
    ];
    let a = scene.container("a", &options);
    let out = scene.json(&["inspect", "a"])["endpoints"][0]["limits"].take();
    let expected = serde_json::json!({
        "in": { "packets_per_second": 5000 },
        "out": { "bits_per_second": 8_000_000, "burst_bytes": 20_000 },
    });
    assert_eq!(out, expected);
    let table = scene.pontoon(&["limit"]).success();
    assert!(table.contains("8mbit") && table.contains("5000"), "{table}");

    scene.end_daemon(Signal::SIGKILL);
    scene.start_daemon();
    let out = scene.json(&["inspect", "a"])["endpoints"][0]["limits"].take();
    assert_eq!(out, expected);
    let beyond = || tcp_rate(&a.namespace, (BEYOND, 5203), (&scene.outside, 5203), 3);
    reaches(8e6, beyond);

    for (arguments, problem) in [
        (&["limit", "a", "--rate-in", "10mbps"][..], "100mbit"),
        (&["limit", "a", "--rate-in", "100bit"], "8kbit"),
        (&["limit", "a", "--burst-in", "1kb"], "rate"),
        (&["limit", "nobody", "--rate-in", "1mbit"], "nobody"),
        (
            &["limit", "a", "--network", "none-such", "--rate-in", "1mbit"],
            "none-such",
        ),
        (&["limit", "--rate-in", "1mbit"], "NAME"),
    ] {
        let error = scene.pontoon(arguments).failure();
        assert!(error.contains(problem), "{arguments:?}: {error}");
    }
}

// Feature: faults
#[test]
fn latency_is_added_and_taken_away_again() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &[]);
    let b = scene.container("b", &[]);
    let before = ping(&a.namespace, b.address, 5, "0.05");
    assert!(before.received == 5 && before.least < 15.0, "{before:?}");

    scene
        .pontoon(&["fault", "a", "--latency", "20ms"])
        .success();
    let late = ping(&a.namespace, b.address, 10, "0.05");
    assert!(
        late.received == 10 && (40.0..50.0).contains(&late.least),
        "{late:?}"
    );
    // One way, with jitter.
    scene
        .pontoon(&["fault", "a", "--latency", "0ms", "--in"])
        .success();
    scene
        .pontoon(&["fault", "a", "--jitter", "5ms", "--out"])
        .success();
    let varied = ping(&a.namespace, b.address, 100, "0.02");
    assert!(
        varied.received == 100 && (15.0..20.0).contains(&varied.least),
        "{varied:?}"
    );
    assert!(varied.most > varied.least + 4.0, "{varied:?}");
    let inspected = scene.json(&["inspect", "a"]);
    let out = &inspected["endpoints"][0]["faults"]["out"];
    assert_eq!(out["latency_us"], 20_000, "{inspected}");
    assert_eq!(out["jitter_us"], 5_000, "{inspected}");
    let table = scene.pontoon(&["fault"]).success();
    assert!(table.contains("20ms"), "{table}");

    scene.pontoon(&["fault", "a", "--clear"]).success();
    let after = ping(&a.namespace, b.address, 5, "0.05");
    assert!(after.received == 5 && after.least < 15.0, "{after:?}");
    assert_eq!(
        scene.json(&["inspect", "a"])["endpoints"][0].get("faults"),
        None
    );
}

// Feature: faults
#[test]
fn loss_and_duplicates_are_as_often_as_asked() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &[]);
    let b = scene.container("b", &[]);
    scene
        .pontoon(&["fault", "b", "--loss", "10%", "--in", "--seed", "7"])
        .success();
    let lossy = ping(&a.namespace, b.address, 2_000, "0.002");
    is_likely(lossy.sent - lossy.received, lossy.sent, 0.1);
    // Neighbours ask for each other now and then, and what they send is lost as often.
    let (lost, dropped) = (lossy.sent - lossy.received, scene.drops("FaultLoss"));
    assert!(
        (lost..lost + 10).contains(&dropped),
        "{dropped} dropped, {lost} lost"
    );

    scene
        .pontoon(&["fault", "b", "--loss", "0%", "--duplicate", "5%", "--in"])
        .success();
    let doubled = ping(&a.namespace, b.address, 2_000, "0.002");
    assert_eq!(doubled.received, doubled.sent);
    is_likely(doubled.duplicates, doubled.sent, 0.05);

    for (arguments, problem) in [
        (&["fault", "a", "--loss", "2"][..], "100%"),
        (&["fault", "a", "--latency", "1h"], "10 s"),
        (&["fault", "nobody", "--loss", "1%"], "nobody"),
        (&["fault", "a", "b", "--loss", "1%"], "--partition"),
        (
            &["fault", "--partition", "a", "--loss", "1%"],
            "no other option",
        ),
        (&["fault", "--partition", "a", "a"], "itself"),
        (&["fault", "--partition"], "name the container"),
    ] {
        let error = scene.pontoon(arguments).failure();
        assert!(error.contains(problem), "{arguments:?}: {error}");
    }
}

// Feature: faults
#[test]
fn a_partition_stops_all_and_heals() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let a = scene.container("a", &[]);
    let b = scene.container("b", &[]);
    let c = scene.container("c", &[]);
    let reaches = |from: &Container, to: IpAddr| ping(&from.namespace, to, 3, "0.01").received > 0;
    let meet = |from: &Container, to: &Container| reaches(from, to.address);
    // Whoever asked for a neighbour in vain asks again after a second or some.
    let heals = |from: &Container, to: IpAddr| {
        eventually("they meet again", Duration::from_secs(10), || {
            reaches(from, to)
                .then_some(())
                .ok_or("no answer".to_owned())
        });
    };

    scene.pontoon(&["fault", "--partition", "a", "b"]).success();
    assert!(!meet(&a, &b) && !meet(&b, &a));
    assert!(meet(&a, &c) && meet(&c, &b) && reaches(&a, BEYOND));
    assert!(scene.drops("Partitioned") > 0);
    let inspected = scene.json(&["inspect", "b"]);
    assert_eq!(inspected["partition"]["from"][0], "a", "{inspected}");
    scene.pontoon(&["fault", "--heal", "b", "a"]).success();
    heals(&a, b.address);
    heals(&b, a.address);

    scene.pontoon(&["fault", "--partition", "a"]).success();
    assert!(!meet(&a, &b) && !meet(&c, &a) && !reaches(&a, BEYOND) && meet(&b, &c));
    scene.pontoon(&["fault", "--partition", "b", "c"]).success();
    let told = scene.json(&["fault", "--clear"]);
    let told = told.as_array().expect("those that had faults");
    assert_eq!(told.len(), 3, "{told:?}");
    for container in told {
        assert_ne!(container["partition"]["from_everything"], true);
        assert!(container["partition"]["from"][0].is_null(), "{container}");
    }
    heals(&a, b.address);
    heals(&b, c.address);
    heals(&a, BEYOND);

    // It is an experiment: the next daemon knows nothing of it.
    scene.pontoon(&["fault", "--partition", "a", "b"]).success();
    assert!(!meet(&a, &b));
    scene.end_daemon(Signal::SIGTERM);
    scene.start_daemon();
    heals(&a, b.address);
}
