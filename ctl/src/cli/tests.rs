//! The grammar of the command line, and the tables as they are printed.

use std::io::Write;

use clap::CommandFactory;

use super::output::{Look, ago, bytes, duration, shorten, write_table};
use super::*;
use crate::api;

fn parse(words: &str) -> Result<Command, clap::Error> {
    let words = std::iter::once("pontoon").chain(words.split_whitespace());
    Cli::try_parse_from(words).map(|cli| cli.command)
}

fn refused(words: &str) -> String {
    match parse(words) {
        Ok(_) => panic!("`{words}` was accepted"),
        Err(error) => error.to_string(),
    }
}

fn printed(print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    print(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_client_command_takes_a_socket() {
    for words in [
        "run --socket s -- true",
        "exec --socket s web true",
        "attach --socket s --pid 1",
        "detach --socket s web",
        "rm --socket s web",
        "stop --socket s -t 3 web",
        "kill --socket s -s HUP web db",
        "wait --socket s web",
        "events --socket s --filter kind=container --since 0",
        "ps --socket s",
        "inspect --socket s web",
        "port --socket s web",
        "port --socket s web 80/udp --json",
        "publish --socket s web -p 80:80",
        "unpublish --socket s web -p 80:80",
        "network create --socket s backend",
        "network create --socket s backend --subnet 10.1.0.0/16 --subnet fd00:1::/64 --ipv6",
        "network create --socket s backend --ipv4=false --ipv6=true",
        "network ls --socket s",
        "network inspect --socket s backend",
        "network rm --socket s backend",
        "fdb --socket s",
        "nat --socket s",
        "conntrack --socket s",
        "conntrack --socket s --container web --protocol tcp --address 10.0.0.0/8 --port 80 --count",
        "conntrack --socket s --container web --flush",
        "drops --socket s",
        "info --socket s",
    ] {
        parse(words).unwrap_or_else(|error| panic!("{words}: {error}"));
    }
}

#[test]
fn commands_keep_their_own_options() {
    // With and without `--`, as Docker takes it.
    for words in [
        "run --rm -d --net none -p 80:80 -p 81:81 --name web --ip 10.0.0.2 --ip6 fd00::2 -- sh -c x --rm",
        "run --rm -d --network none -p 80:80 --publish 81:81 --name web --ip 10.0.0.2 sh -c x --rm",
        "exec web -- sh -c x --rm",
        "exec web sh -c x --rm",
    ] {
        let command = match parse(words) {
            Ok(Command::Run(args)) => args.command,
            Ok(Command::Exec(args)) => args.command,
            Ok(_) => panic!("{words}: another command"),
            Err(error) => panic!("{words}: {error}"),
        };
        assert_eq!(command, ["sh", "-c", "x", "--rm"], "{words}");
    }
}

#[test]
fn wrong_command_lines_say_what_is_wrong() {
    let error = refused("run -p 8080:99999 -- true");
    assert!(error.contains("'8080:99999'"), "{error}");
    assert!(error.contains("`99999` is not a port"), "{error}");
    assert!(refused("run -p 9000-9001:80 -- true").contains("must be equal"));
    assert!(refused("run --net container: -- true").contains("container:NAME"));
    assert!(refused("run --mac 01:00:5e:00:00:01 -- true").contains("multicast"));
    assert!(refused("run").contains("<COMMAND>"));
    assert!(refused("run --log f -- true").contains("--detach"));
    assert!(refused("attach --name x").contains("--pid"));
    assert!(refused("attach --pid 1 --netns /run/netns/x").contains("cannot be used with"));
    assert!(refused("attach --pid 0").contains("0"));
    assert!(refused("publish web").contains("--publish"));
    assert!(refused("network create backend --subnet 10.0.0.0/33").contains("10.0.0.0/33"));
    assert!(refused("daemon --workers 0").contains("0"));
}

#[test]
fn daemon_takes_several_uplinks() {
    for words in [
        "daemon --uplink eth0 eth1",
        "daemon --uplink eth0,eth1",
        "daemon --uplink eth0 --uplink eth1",
    ] {
        assert!(matches!(parse(words), Ok(Command::Daemon(_))), "{words}");
    }
}

#[test]
fn the_start_step_reads_what_its_caller_writes() {
    let command = ["sh", "--", "-c", "--hostname=x"].map(OsString::from);
    for isolate in [false, true] {
        let words = start::StartArgs::words(7, 8, isolate, &command);
        let words = std::iter::once(OsString::from("pontoon")).chain(words);
        match Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(Command::Start(args)) => assert_eq!(args.command, command),
            Ok(_) => panic!("another command"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn numbers_are_for_people() {
    assert_eq!(
        [0, 999, 1000, 1_234_567, 999_999].map(bytes),
        ["0B", "999B", "1.0kB", "1.2MB", "1.0MB"]
    );
    assert_eq!(bytes(u64::MAX), "18.4EB");
    assert_eq!(
        [0, 59, 60, 299, 431_940].map(duration),
        ["0s", "59s", "1m00s", "4m59s", "119h59m"]
    );
    assert_eq!(
        [1, 90, 7200, 864_000].map(ago),
        ["1 second ago", "1 minute ago", "2 hours ago", "10 days ago"]
    );
    assert_eq!(shorten("nginx", 5), "nginx");
    assert_eq!(shorten("größer", 4), "grö…");
}

#[test]
fn tables_are_plain_but_on_a_terminal() {
    let rows = || {
        [
            ["a".to_owned(), String::new()],
            ["\x1b[2J\n".to_owned(), "b".to_owned()],
        ]
    };
    let plain = printed(|out| write_table(out, Look::Plain, ["ONE", "TWO"], rows()));
    // What would steer the terminal arrives as text.
    assert_eq!(
        plain,
        "ONE           TWO\na             -\n\\u{1b}[2J\\n   b\n"
    );
    let styled = printed(|out| write_table(out, Look::Terminal, ["ONE", "TWO"], rows()));
    assert!(styled.starts_with("\x1b[1mONE"), "{styled:?}");
    assert!(!styled.contains("[2J\n"), "{styled:?}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = fdb::print(&mut Closed, Look::Plain, &[]).unwrap_err();
    assert!(is_broken_pipe(&error.into()));
}

fn mapping(text: &str) -> api::PortMapping {
    text.parse().unwrap()
}

#[test]
fn ps_as_printed() {
    let endpoint = api::Endpoint {
        network: "bridge".into(),
        interface: "eth0".into(),
        mac: "02:42:ac:11:00:02".into(),
        addresses: vec!["172.17.0.2/16".parse().unwrap()],
        gateways: vec!["172.17.0.1".parse().unwrap()],
        gateway_priority: 0,
        default_routes: vec!["172.17.0.1".parse().unwrap()],
        aliases: Vec::new(),
        port_kind: api::PortKind::Tap,
        port: 3,
        ifindex: 2,
        host_interface: None,
        host_ifindex: None,
        limits: api::Limits::default(),
        faults: api::Faults::default(),
    };
    let web = api::Container {
        names: api::NameSettings::default(),
        resolvers: Vec::new(),
        partition: api::Partition::default(),
        id: "0123456789abcdef0123".into(),
        name: "web".into(),
        mode: api::Mode::Network("bridge".into()),
        target: api::Target::Pid(77),
        netns: 0,
        command: vec![
            "redis-server".into(),
            "--port".into(),
            "6379".into(),
            "--save".into(),
        ],
        created: 1000,
        status: api::Status::Running,
        exit_code: None,
        endpoints: vec![endpoint],
        published: vec![mapping("6379:6379"), mapping("[::1]:9000-9009:80-89/udp")],
        pending: vec![],
        remove_on_exit: false,
        joined: Vec::new(),
    };
    let idle = api::Container {
        names: api::NameSettings::default(),
        resolvers: Vec::new(),
        partition: api::Partition::default(),
        id: "fedcba".into(),
        name: "idle".into(),
        mode: api::Mode::Container("web".into()),
        target: api::Target::Netns("/run/netns/idle".into()),
        netns: 0,
        command: vec![],
        status: api::Status::Exited,
        exit_code: Some(137),
        endpoints: vec![],
        published: vec![],
        pending: vec![mapping("192.0.2.9:53:53/udp")],
        ..web.clone()
    };
    let table = printed(|out| ps::print(out, Look::Plain, &[web, idle], 1120));
    assert_eq!(
        table,
        "\
CONTAINER ID   COMMAND                        CREATED         STATUS         NETWORK         ADDRESS      PORTS                                          NAME
0123456789ab   redis-server --port 6379 --…   2 minutes ago   running        bridge          172.17.0.2   *:6379->6379/tcp, [::1]:9000-9009->80-89/udp   web
fedcba         (/run/netns/idle)              2 minutes ago   exited (137)   container:web   -            192.0.2.9:53->53/udp (pending)                 idle
"
    );
}

#[test]
fn nat_as_printed() {
    let rules = api::NatRules {
        masquerade: vec![
            api::MasqueradeRule {
                network: "bridge".into(),
                source: "172.17.0.0/16".parse().unwrap(),
                to: [("eth0".to_owned(), "192.0.2.7".parse().unwrap())].into(),
            },
            api::MasqueradeRule {
                network: "backend".into(),
                source: "172.18.0.0/16".parse().unwrap(),
                to: Default::default(),
            },
        ],
        publish: vec![api::PublishRule {
            container: "web".into(),
            mapping: mapping("8080-8089:80-89"),
            to: vec!["172.17.0.2".parse().unwrap()],
        }],
    };
    assert_eq!(
        printed(|out| nat::print(out, Look::Plain, &rules)),
        "\
Published ports (DNAT)
PROTOCOL   DESTINATION   TO                 CONTAINER
tcp        *:8080-8089   172.17.0.2:80-89   web

Masquerade (SNAT)
NETWORK   SOURCE          UPLINK   TO
bridge    172.17.0.0/16   eth0     192.0.2.7
backend   172.18.0.0/16   -        -
"
    );
}

#[test]
fn conntrack_as_printed() {
    let flow = |src: &str, src_port, dst: &str, dst_port| api::Flow {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        src_port,
        dst_port,
    };
    let tcp = api::Connection {
        protocol: "tcp".into(),
        state: "established".into(),
        original: flow("172.17.0.2", 40000, "198.51.100.1", 443),
        reply: flow("198.51.100.1", 443, "192.0.2.7", 61000),
        expires_seconds: 7439,
        packets: [12, 10],
        bytes: [1500, 123_456],
    };
    let ping = api::Connection {
        protocol: "icmp".into(),
        state: "echo".into(),
        original: flow("172.17.0.2", 77, "198.51.100.1", 0),
        reply: flow("198.51.100.1", 0, "192.0.2.7", 61003),
        expires_seconds: 30,
        packets: [1, 1],
        bytes: [84, 84],
    };
    assert_eq!(
        printed(|out| conntrack::print(out, Look::Plain, &[tcp, ping])),
        "\
PROTOCOL   STATE         ORIGINAL                               REPLY                                 EXPIRES   PACKETS   BYTES
tcp        established   172.17.0.2:40000 -> 198.51.100.1:443   198.51.100.1:443 -> 192.0.2.7:61000   2h03m     12/10     1.5kB/123.5kB
icmp       echo          172.17.0.2 -> 198.51.100.1 id 77       198.51.100.1 -> 192.0.2.7 id 61003    30s       1/1       84B/84B
"
    );
}

#[test]
fn drops_as_printed() {
    let drop = api::DropCounter {
        reason: "SpoofedSource".into(),
        explanation: "the source address is not the port's".into(),
        frames: 3,
    };
    assert_eq!(
        printed(|out| drops::print(out, Look::Plain, &[drop])),
        "\
FRAMES   REASON          EXPLANATION
3        SpoofedSource   the source address is not the port's
"
    );
}
