use clap::Parser;

use super::*;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    demo: DemoArgs,
}

fn parse(line: &str) -> Result<DemoArgs, clap::Error> {
    CommandLine::try_parse_from(line.split_whitespace()).map(|line| line.demo)
}

#[test]
fn the_command_line() {
    let plain = parse("demo --port-kind veth --wire tap").unwrap();
    assert_eq!(
        (plain.port_kind, plain.wire),
        (Some(PortKind::Veth), Some(PortKind::Tap))
    );
    assert_eq!(parse("demo --serve 80").unwrap().serve, Some(80));
    assert!(parse("demo --ask 192.0.2.1:80 --udp").unwrap().udp);
    assert!(parse("demo --udp").is_err());
    assert!(parse("demo --serve 80 --ping 192.0.2.1").is_err());
    let tethered = parse("demo --tether daemon --state-dir /x --workers 2").unwrap();
    assert_eq!(
        tethered.tether.unwrap(),
        ["daemon", "--state-dir", "/x", "--workers", "2"]
    );
}

fn cast() -> Cast {
    Cast {
        client: "172.17.0.3".parse().unwrap(),
        web: "172.17.0.2".parse().unwrap(),
        gateway: "172.17.0.1".parse().unwrap(),
    }
}

/// The conversation of a container with the outside, as it should be.
fn masqueraded() -> (Path, Asked) {
    let [_, path, _, _] = paths(&cast());
    let (you, me) = ("192.0.2.1:61000".parse().unwrap(), path.me);
    let connection = Connection {
        protocol: "tcp".to_owned(),
        state: "established".to_owned(),
        original: Flow {
            src: cast().client,
            dst: OUTSIDE.into(),
            src_port: 40112,
            dst_port: 80,
        },
        reply: Flow {
            src: OUTSIDE.into(),
            dst: UPLINK.into(),
            src_port: 80,
            dst_port: 61000,
        },
        expires_seconds: 7440,
        packets: [4, 4],
        bytes: [300, 300],
    };
    assert!(is_entry_of(&connection, "tcp", Some((you, me)), &path));
    let asked = Asked {
        protocol: "tcp",
        said: format!("you are {you}, I am {me}"),
        timing: Timing {
            connect_us: None,
            round_trip_us: 40,
            rounds: 50,
        },
        seen: Some((you, me)),
        connection: Some(connection),
    };
    (path, asked)
}

#[test]
fn what_is_right_is_said_once() {
    let (path, asked) = masqueraded();
    let (_, again) = masqueraded();
    assert_eq!(
        judge(&path, &[asked, again]),
        [(
            true,
            "outside saw 192.0.2.1: the host's uplink address".to_owned()
        )]
    );
}

#[test]
fn what_is_wrong_is_named() {
    let wrong = |asked: Asked, path: &Path| -> String {
        let verdicts = judge(path, &[asked]);
        let wrong: Vec<String> = verdicts
            .into_iter()
            .filter(|(right, _)| !right)
            .map(|(_, text)| text)
            .collect();
        wrong.join("; ")
    };
    let (path, mut asked) = masqueraded();
    asked.seen = Some(("172.17.0.3:40112".parse().unwrap(), path.me));
    assert_eq!(
        wrong(asked, &path),
        "outside saw 172.17.0.3, not 192.0.2.1, the host's uplink address"
    );

    let (path, mut asked) = masqueraded();
    asked.seen = Some((
        "192.0.2.1:61000".parse().unwrap(),
        "192.0.2.9:80".parse().unwrap(),
    ));
    assert_eq!(
        wrong(asked, &path),
        "192.0.2.9:80 answered over tcp instead of 192.0.2.2:80"
    );

    let (path, mut asked) = masqueraded();
    asked.connection = None;
    assert_eq!(
        wrong(asked, &path),
        "the tcp conversation has no connection entry"
    );

    let (path, mut asked) = masqueraded();
    if let Some(connection) = &mut asked.connection {
        connection.original.src = cast().web;
    }
    assert_eq!(
        wrong(asked, &path),
        "the tcp entry tells of 172.17.0.2 → 192.0.2.2"
    );
}
