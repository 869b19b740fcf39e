//! The process: its threads, its signals, and whose turn it is.

use std::io::{self, IsTerminal};
use std::os::unix::net::UnixListener;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use crossbeam_channel::Receiver;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use switch::{Event, Settings, Switch};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use super::lock::{self, ApiSocket, Locks};
use super::server::{self, change};
use super::shares::Shares;
use super::{Daemon, DaemonOptions, Started, listener, privileges, service};
use crate::api::Privileges;

/// How often it is looked whether what nothing watches still lives.
const SWEEP: Duration = Duration::from_secs(2);

/// Ends that are dealt with together: containers end by the hundred when a host empties.
const AT_ONCE: usize = 64;

/// Runs a daemon in the calling thread's network namespace until SIGTERM or SIGINT. Containers
/// keep their interfaces, and the next daemon on the same state adopts them.
///
/// # Errors
/// Another daemon holds the state, the socket or the namespace; this kernel has neither tun nor
/// veth; the store can't be opened; or the default network can't be made.
pub(crate) fn run(options: DaemonOptions) -> anyhow::Result<()> {
    start_log();
    // What is made is for nobody else unless its mode is set: the store, the lock, the API's socket
    // before its group has it.
    umask(Mode::from_bits_truncate(0o077));
    raise_descriptor_limit();
    // Both may change owners and modes of files, which needs more than the daemon keeps.
    let locks = lock::claim(&options.state_dir)?;
    let socket = listen(&options)?;
    // Capabilities and filters belong to a thread and are inherited by the threads that it starts:
    // those of the switch have no filter.
    let privileges = privileges::drop_unused();
    let switch = Switch::start(settings(&options)).context("can't start the switch")?;
    let privileges = privileges::filter_calls(privileges);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("pontoon")
        .enable_all()
        .build()
        .context("can't start the daemon's threads")?;
    let outcome = runtime.block_on(serve(options, locks, socket, switch, privileges));
    if outcome.is_ok() {
        // The workers forward up to here, and the kernel closes everything at once: to take a
        // switch apart port by port would only make the silence longer until the next daemon has
        // it.
        std::process::exit(0);
    }
    // Relays are cut, not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

fn settings(options: &DaemonOptions) -> Settings {
    let defaults = Settings::default();
    Settings {
        limits: options.limits.clone(),
        workers: options.workers.map_or(defaults.workers, |it| it.max(1)),
        busy_poll: options.busy_poll.unwrap_or(defaults.busy_poll),
        no_halt: options.no_halt,
        ..defaults
    }
}

/// Returns the API's socket: the one that a service manager has bound, or the daemon's own, which
/// is removed when the daemon ends.
fn listen(options: &DaemonOptions) -> anyhow::Result<(UnixListener, Option<ApiSocket>)> {
    if let Some(listener) = service::inherited_socket()? {
        return Ok((listener, None));
    }
    let group = lock::socket_group(options.group.as_deref())?;
    let (listener, socket) = lock::bind_socket(&options.socket, group)?;
    Ok((listener, Some(socket)))
}

async fn serve(
    options: DaemonOptions,
    mut locks: Locks,
    (listener, _socket): (UnixListener, Option<ApiSocket>),
    switch: (Switch, Receiver<Event>),
    privileges: Privileges,
) -> anyhow::Result<()> {
    locks.hang_up();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The end of the terminal that it was started from, and what others use to have a log rotated.
    let mut reload = signal(SignalKind::hangup())?;
    let _ignored = [
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
        signal(SignalKind::alarm())?,
    ];

    let start = options.clone();
    let Started {
        daemon,
        mut host,
        mut events,
        mut ends,
    } = tokio::task::spawn_blocking(move || Daemon::start(&start, switch)).await??;
    let api = server::Api {
        view: daemon.view.subscribe(),
        switch: Arc::clone(&daemon.switch),
        state_dir: Arc::new(options.state_dir),
        run_dir: Arc::new(options.run_dir),
        port_kind: daemon.port_kind,
        ipv6: daemon.ipv6,
        engine: Arc::new(server::engine(&options.limits)),
        privileges: Arc::new(privileges),
        events: Arc::clone(&daemon.events),
        daemon: Arc::new(Mutex::new(daemon)),
    };
    let daemon = Arc::clone(&api.daemon);
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let shares = Shares::new();
    let router = server::router(api, Arc::clone(&shares));
    // A task of its own: it answers while a change is under way here.
    let mut server = JoinSet::new();
    server.spawn(listener::serve(listener, router, shares));
    tracing::info!("pontoon answers on {}", options.socket.display());
    service::ready("containers' networks are up");
    let mut watchdog = service::watchdog();

    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told_events, mut ended) = (Vec::new(), Vec::new());
    let mut unsettled = true;
    let told = loop {
        let outcome = tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            Some(()) = reload.recv() => change(&daemon, |daemon| { daemon.reload(); Ok(()) }).await,
            Some(served) = server.join_next() => {
                served.context("the API's socket failed")?;
                bail!("the API's socket was closed");
            }
            changed = host.changed() => {
                changed.map_err(|_| anyhow!("nobody follows the host's network any more"))?;
                let host = host.borrow_and_update().clone();
                change(&daemon, |daemon| { daemon.follow_host(host); Ok(()) }).await
            }
            1.. = events.recv_many(&mut told_events, AT_ONCE) => {
                let events = std::mem::take(&mut told_events);
                change(&daemon, |daemon| {
                    events.into_iter().for_each(|event| daemon.handle_event(event));
                    Ok(())
                }).await
            }
            1.. = ends.recv_many(&mut ended, AT_ONCE) => {
                let ended = std::mem::take(&mut ended);
                change(&daemon, move |daemon| {
                    let why = || "its process has ended".to_owned();
                    daemon.end_all(ended.into_iter().map(|id| (id, why())));
                    Ok(())
                }).await
            }
            () = std::future::ready(()), if unsettled => {
                let settled = change(&daemon, |daemon| Ok(daemon.settle())).await;
                settled.map(|more| unsettled = more)
            }
            _ = sweep.tick() => change(&daemon, |daemon| { daemon.sweep(); Ok(()) }).await,
            Some(()) = tick(&mut watchdog) => {
                // Not before a change that is under way has come to its end: one that never does is
                // what a watchdog is for.
                let turns = change(&daemon, |_| Ok(())).await;
                service::alive();
                turns
            }
        };
        if let Err(failure) = outcome {
            tracing::error!("{failure}");
        }
    };
    service::stopping();
    drop(server);
    tracing::info!("{told}: stopping; containers keep their interfaces");
    // A change in progress comes to its end first.
    let daemon = tokio::task::spawn_blocking(move || {
        let mut locked = daemon.lock().unwrap_or_else(PoisonError::into_inner);
        locked.write_connections();
        locked.store.close();
        locked.end_silence();
        drop(locked);
        daemon
    });
    std::mem::forget(daemon.await);
    Ok(())
}

async fn tick(interval: &mut Option<Interval>) -> Option<()> {
    interval.as_mut()?.tick().await;
    Some(())
}

/// One line a change on standard error; RUST_LOG chooses more or less.
fn start_log() {
    // It warns of strange DNS messages, which anybody can send in any number.
    let quiet = Directive::from_str("hickory_proto=off").unwrap_or(LevelFilter::INFO.into());
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy()
        .add_directive(quiet);
    // Fails where there is one already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

/// Each published port and each flow of a relay takes descriptors: the soft limit of 1024 is for
/// programs that use select(2).
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(())
    });
    if let Err(error) = raised {
        tracing::warn!("can't raise the limit of file descriptors: {error}");
    }
}
