//! What a container has of the host's files and name services: its own, whatever the host does with
//! its own files and sockets.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use pontoon_tests::process::{Background, Output, run};
use pontoon_tests::scene::Scene;

/// A host whose /etc and /run are its own, for what is started in it.
struct Host {
    scene: Scene,
    mounts: Background,
    etc: PathBuf,
    run: PathBuf,
}

impl Host {
    fn new() -> Option<Host> {
        let scene = Scene::new()?;
        let [etc, own_run] = ["etc", "own-run"].map(|name| scene.directory().join(name));
        fs::create_dir(&own_run).expect("a directory");
        run(Command::new("cp").arg("-a").arg("/etc").arg(&etc)).success();
        let text = |path: &Path| path.to_str().expect("an ASCII path").to_owned();
        // The scene's directory must be seen at the same place.
        let script = format!(
            "mount --make-rprivate / && mount --bind {} /etc && mount --bind {} /run && \
             echo ready && exec sleep 86500",
            text(&etc),
            text(&own_run)
        );
        let mut mounts =
            Background::start(Command::new("unshare").args(["-m", "sh", "-c", &script]));
        mounts.wait_for_output("ready");
        Some(Host {
            scene,
            mounts,
            etc,
            run: own_run,
        })
    }

    /// A program on the host, in its mounts.
    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = self.scene.host_command("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.mounts.pid()))
            .arg("--wd=/")
            .arg(pontoon_tests::pontoon())
            .args(arguments);
        run(&mut command)
    }

    /// In the mounts of a container's command.
    fn inside(&self, name: &str, line: &str) -> String {
        let container = self.scene.json(&["inspect", name]);
        let container = container.get(0).unwrap_or(&container);
        let supervisor = container["target"]["pid"].as_u64().expect("a pid");
        let child = run(Command::new("pgrep").args(["-P", &supervisor.to_string()])).success();
        let mut command = Command::new("nsenter");
        command.args([
            "--mount",
            "--net",
            "--target",
            child.trim(),
            "sh",
            "-c",
            line,
        ]);
        run(&mut command).success()
    }

    /// As systemd-resolved, NetworkManager and useradd do it.
    fn replace(&self, name: &str, text: &str) {
        let new = self.etc.join("new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, self.etc.join(name)).expect("it is replaced");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.mounts.end(Signal::SIGKILL);
    }
}

const LOOK: &str = "cat /etc/resolv.conf /etc/hosts /etc/hostname; grep ^hosts /etc/nsswitch.conf; \
                    getent ahostsv4 pin | head -1";

#[test]
fn a_container_keeps_its_files_whatever_the_host_does_with_its_own() {
    let Some(host) = Host::new() else { return };
    let etc = |name: &str| host.etc.join(name);
    // Whatever the host has at the start: nothing, a link that dangles, a link to elsewhere.
    fs::remove_file(etc("resolv.conf")).ok();
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        etc("resolv.conf"),
    )
    .expect("a link");
    fs::remove_file(etc("hosts")).ok();
    host.replace("hostname", "the-host\n");
    host.replace(
        "nsswitch.conf",
        "passwd: files\nhosts: files resolve [!UNAVAIL=return] dns\n",
    );
    let options = ["run", "-d", "--name", "web", "--add-host", "pin:192.0.2.55"];
    host.command(&[&options[..], &["--", "sleep", "86501"]].concat())
        .success();
    let before = host.inside("web", LOOK);
    for part in [
        "nameserver 127.0.0.11\n",
        "\tweb\n",
        "\nweb\n",
        "hosts: files dns\n",
        "192.0.2.55",
    ] {
        assert!(before.contains(part), "{part:?} in {before}");
    }
    let same = |what: &str| assert_eq!(host.inside("web", LOOK), before, "{what}");
    for name in ["resolv.conf", "hosts", "hostname", "nsswitch.conf"] {
        host.replace(name, "# the host's\n");
        same("replaced");
        fs::remove_file(etc(name)).expect("it is there");
        same("removed");
        fs::write(etc(name), "# the host's\n").expect("a file");
        same("written");
    }
    // It is brought up to date as before.
    host.scene.pontoon(&["network", "create", "back"]).success();
    host.scene
        .pontoon(&["network", "connect", "back", "web"])
        .success();
    pontoon_tests::eventually(
        "its hosts has both",
        std::time::Duration::from_secs(20),
        || {
            let lines = host.inside("web", "grep -c web /etc/hosts");
            if lines.trim().parse::<u32>().expect("a number")
                > before.matches("\tweb\n").count() as u32
            {
                Ok(())
            } else {
                Err(lines)
            }
        },
    );
    assert_eq!(
        fs::read_to_string(etc("hosts")).ok().as_deref(),
        Some("# the host's\n")
    );
}

#[test]
fn the_rest_of_etc_is_the_host_s_and_is_followed() {
    let Some(host) = Host::new() else { return };
    let etc = |name: &str| host.etc.join(name);
    fs::create_dir_all(etc("app/conf.d")).expect("a directory");
    fs::write(etc("app/conf.d/one"), "1\n").expect("a file");
    symlink("../motto", etc("app/link")).expect("a link");
    host.replace("motto", "before\n");
    host.command(&["run", "-d", "--name", "web", "--", "sleep", "86502"])
        .success();
    let look =
        "cat /etc/motto /etc/app/link /etc/app/conf.d/*; ls -A /etc | wc -l; getent passwd root";
    let shown = host.inside("web", look);
    assert!(shown.starts_with("before\nbefore\n1\n"), "{shown}");
    assert!(shown.contains("root:"), "{shown}");
    host.replace("motto", "after\n");
    fs::write(etc("app/conf.d/two"), "2\n").expect("a file");
    assert!(host.inside("web", look).starts_with("after\nafter\n1\n2\n"));
    // What a container makes in /etc is its own, also by replacing.
    host.inside("web", "echo own >/etc/own; echo own >/etc/new; mv /etc/new /etc/hosts; echo in >>/etc/app/conf.d/one");
    assert!(!etc("own").exists() && !fs::read_to_string(etc("hosts")).unwrap().contains("own"));
    assert_eq!(
        fs::read_to_string(etc("app/conf.d/one")).unwrap(),
        "1\nin\n"
    );
    let names = |directory: &Path| fs::read_dir(directory).expect("it is there").count();
    let before = names(&host.etc);
    host.command(&["run", "--rm", "--", "true"]).success();
    assert_eq!(names(&host.etc), before, "nothing is left");
}

#[test]
fn the_host_s_name_services_are_out_of_reach() {
    let Some(host) = Host::new() else { return };
    for service in [
        "nscd/socket",
        "systemd/resolve/io.systemd.Resolve",
        "avahi-daemon/socket",
    ] {
        let path = host.run.join(service);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    }
    let start = |service: &str| UnixListener::bind(host.run.join(service)).expect("a socket");
    let _resolved = start("systemd/resolve/io.systemd.Resolve");
    host.command(&[
        "run", "-d", "--net", "none", "--name", "alone", "--", "sleep", "86503",
    ])
    .success();
    // Those that start later are not seen either.
    let _later = (start("nscd/socket"), start("avahi-daemon/socket"));
    let found = host.inside("alone", "find /run/ /var/run/ -type s");
    assert_eq!(found, "");
    let found = host.command(&["exec", "alone", "--", "find", "/run/", "-type", "s"]);
    assert_eq!(found.success(), "");
    // The directory of a service that is not there yet.
    drop(_later);
    fs::remove_dir_all(host.run.join("nscd")).expect("it is there");
    host.command(&["run", "-d", "--name", "early", "--", "sleep", "86504"])
        .success();
    fs::create_dir_all(host.run.join("nscd")).expect("a directory");
    let _nscd = start("nscd/socket");
    assert_eq!(
        host.inside("early", "find /run/nscd /var/run/nscd -type s"),
        ""
    );
}

#[test]
fn a_name_service_that_is_started_again_is_out_of_reach() {
    let Some(host) = Host::new() else { return };
    let services = ["nscd", "systemd/resolve", "avahi-daemon"];
    let directory = |service: &str| host.run.join(service);
    fs::create_dir_all(directory("nscd")).expect("a directory");
    host.command(&["run", "-d", "--name", "web", "--", "sleep", "86505"])
        .success();
    // As an ordinary user, who can't do anything about it itself.
    let command = [
        "run",
        "-d",
        "--name",
        "user",
        "--",
        "setpriv",
        "--reuid=1",
        "--regid=1",
        "--clear-groups",
        "sleep",
        "86506",
    ];
    host.command(&command).success();
    // It looks all the time.
    let seen = host.scene.directory().join("seen");
    let look = format!(
        "while :; do for it in /run/nscd /run/systemd/resolve /run/avahi-daemon; do \
         if [ -S $it/socket ]; then echo $it >>{}; fi; done; done",
        seen.display()
    );
    let command = ["run", "-d", "--name", "looks", "--", "sh", "-c", &look];
    host.command(&command).success();
    for round in 0..3 {
        let mut sockets = Vec::new();
        for service in services {
            // What systemd does where the service ends and begins (RuntimeDirectory=).
            fs::remove_dir_all(directory(service)).ok();
            fs::create_dir_all(directory(service)).expect("a directory");
            if round == 2 {
                // By renaming, as others do.
                let new = host.run.join("new");
                fs::remove_dir(directory(service)).expect("it is empty");
                fs::create_dir(&new).expect("a directory");
                fs::rename(&new, directory(service)).expect("it is renamed");
            }
            // nscd itself needs some time, if less.
            std::thread::sleep(std::time::Duration::from_millis(200));
            let socket = directory(service).join("socket");
            sockets.push(UnixListener::bind(socket).expect("a socket"));
        }
        for name in ["web", "user"] {
            assert_eq!(host.inside(name, "find /run/ /var/run/ -type s"), "");
        }
        let found = host.command(&["exec", "web", "--", "find", "/run/", "-type", "s"]);
        assert_eq!(found.success(), "");
        // On the host they are there.
        for service in services {
            assert!(directory(service).join("socket").exists());
        }
    }
    let seen = fs::read_to_string(seen).unwrap_or_default();
    assert_eq!(seen, "", "not for a moment");
}
