//! A network on ports in memory, for the tests of what happens within it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nat::Time;

use crate::config::{Bridge, Config, Endpoint, Network, NetworkId, PortId};
use crate::datapath::Datapath;
use crate::drop::DropReason;
use crate::frame::MacAddr;
use crate::io::{MemoryPeer, Queue, memory_port};
use crate::switch::Settings;
use crate::worker::Worker;

pub(crate) const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
pub(crate) const NETWORK: NetworkId = NetworkId(1);

/// The host is the first port, the endpoints follow: number `n` has the MAC [`mac`]`(n)` and the
/// address 10.0.0.`n`.
pub(crate) struct Lan {
    pub(crate) datapath: Arc<Datapath>,
    pub(crate) config: Config,
    pub(crate) now: Time,
    worker: Worker,
    cables: Vec<MemoryPeer>,
}

pub(crate) fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// A frame with some payload of no protocol that anyone knows.
pub(crate) fn frame(to: MacAddr, from: MacAddr) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(60, 0);
    frame
}

impl Lan {
    /// A host and so many guarded endpoints, numbered from 1.
    pub(crate) fn new(endpoints: u8) -> Lan {
        let settings = Settings {
            workers: 1,
            seed: 1,
            ..Settings::default()
        };
        let (datapath, _) = Datapath::new(&settings);
        let cables = (0..=endpoints)
            .map(|_| {
                let (queue, cable) = memory_port(100_000).expect("a port in memory");
                let added = datapath.add_port(vec![Queue::Memory(queue)]);
                added.expect("one queue for one worker");
                cable
            })
            .collect();
        let gateway: IpAddr = [10, 0, 0, 254].into();
        let config = Config {
            networks: vec![Network {
                id: NETWORK,
                gateway_mac: GATEWAY,
                gateway_addresses: vec![gateway],
                subnets: vec!["10.0.0.0/24".parse().expect("a subnet")],
                host_port: Some(PortId(0)),
                mtu: 1500,
                internal: false,
                names: true,
                clamp_mss: false,
                bridge: Bridge {
                    // Nothing moves unasked.
                    snooping: None,
                    ..Bridge::default()
                },
            }],
            endpoints: (1..=endpoints)
                .map(|n| Endpoint {
                    port: PortId(u32::from(n)),
                    network: NETWORK,
                    mac: mac(n),
                    addresses: vec![[10, 0, 0, n].into()],
                    guard: true,
                    isolated: false,
                })
                .collect(),
            host_addresses: vec![gateway],
            ..Config::default()
        };
        let lan = Lan {
            worker: Worker::new(Arc::clone(&datapath), 0),
            datapath,
            config,
            now: Time::ZERO,
            cables,
        };
        lan.configure();
        lan
    }

    /// The same with a change to its description.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Config)) -> Lan {
        change(&mut self.config);
        self.configure();
        self
    }

    pub(crate) fn configure(&self) {
        self.datapath.configure(self.now, self.config.clone());
    }

    /// Sends a frame from port `from` and tells which ports got it, itself included.
    pub(crate) fn send(&mut self, from: usize, frame: &[u8]) -> Vec<usize> {
        let heard = self.send_and_hear(from, frame);
        heard.into_iter().map(|(port, _)| port).collect()
    }

    /// The same with what each of them got.
    pub(crate) fn send_and_hear(&mut self, from: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        self.send_vector(from, &[frame])
    }

    /// The same of several frames that the worker finds at once.
    pub(crate) fn send_vector<F: AsRef<[u8]>>(
        &mut self,
        from: usize,
        frames: &[F],
    ) -> Vec<(usize, Vec<u8>)> {
        let mut sending = frames.iter();
        assert!(sending.all(|frame| self.cables[from].send(frame.as_ref())));
        let port = PortId(from as u32);
        let polled = self.worker.poll(self.now, port);
        assert_eq!(polled.expect("a port in memory stays"), frames.len());
        self.heard()
    }

    /// What waits at the ports, and takes it from there.
    pub(crate) fn heard(&self) -> Vec<(usize, Vec<u8>)> {
        let cables = self.cables.iter().enumerate();
        cables
            .flat_map(|(port, cable)| {
                let frames = std::iter::from_fn(|| cable.recv());
                frames.map(move |frame| (port, frame.bytes().to_vec()))
            })
            .collect()
    }

    /// Lets so much time pass, carries on what is due by then, and tells what is heard of it.
    pub(crate) fn wait(&mut self, time: Duration) -> Vec<(usize, Vec<u8>)> {
        self.now += time;
        self.worker.release(self.now);
        self.heard()
    }

    /// When the next frame that is held back goes on.
    pub(crate) fn due(&self) -> Option<Time> {
        self.worker.due()
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.datapath.tick(self.now);
        }
    }

    /// Frames that came in by a port and were the host's own business.
    pub(crate) fn hosts_own(&self, port: u32) -> u64 {
        let counters = self.datapath.counters();
        let row = counters.ports.iter().find(|(of, _)| of.0 == port);
        row.expect("the port is counted").1.hosts_own
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        let counters = self.datapath.counters();
        let row = counters.drops.iter().find(|(of, _)| *of == reason);
        row.expect("every reason is counted").1
    }
}
