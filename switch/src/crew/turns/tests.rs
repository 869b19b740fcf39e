use super::*;

const ATTACKER: PortId = PortId(0);
const CLIENT: PortId = PortId(1);
const SERVER: PortId = PortId(2);
const RECEIVER: PortId = PortId(3);

/// What a port has to say: frames that wait, and what each of them costs.
struct Source {
    port: PortId,
    peer: PortId,
    cost: Duration,
    bytes: usize,
    waiting: usize,
}

impl Source {
    fn endless(port: PortId, cost: Duration) -> Source {
        Source {
            port,
            peer: RECEIVER,
            cost,
            bytes: 60,
            waiting: usize::MAX,
        }
    }
}

/// A lane under a clock of its own: what a thread does, without threads or frames.
struct Lane {
    turns: Turns,
    now: Time,
    sources: Vec<Source>,
    /// Time that each source took.
    taken: Vec<Duration>,
}

impl Lane {
    fn new(sources: Vec<Source>) -> Lane {
        Lane {
            turns: Turns::default(),
            now: Time::ZERO + Duration::from_secs(1),
            taken: vec![Duration::ZERO; sources.len()],
            sources,
        }
    }

    /// One look; `meanwhile` where the thread has nothing else to do.
    fn look(&mut self) {
        self.turns.look();
        while self.turns.rested(self.now).is_some() {}
        let mut found = false;
        for place in 0..self.sources.len() {
            if self.sources[place].waiting == 0 {
                continue;
            }
            let port = self.sources[place].port;
            let asked = self.turns.grant(self.now, port, VECTOR, false);
            if asked > 0 {
                found = true;
                let turn = self.carry(place, asked);
                let peers = [self.sources[place].peer];
                let turn = Turn {
                    peers: &peers,
                    ..turn
                };
                self.turns.charge(self.now, port, &turn);
            }
        }
        if !found && let Some((port, asked)) = self.turns.meanwhile() {
            let place = self.sources.iter().position(|it| it.port == port).unwrap();
            let turn = self.carry(place, asked);
            self.turns.charge_meanwhile(port, &turn);
        }
        self.now += Duration::from_micros(1);
    }

    fn carry(&mut self, place: usize, asked: usize) -> Turn<'static> {
        let source = &mut self.sources[place];
        let frames = asked.min(source.waiting);
        if source.waiting != usize::MAX {
            source.waiting -= frames;
        }
        let took = source.cost * frames as u32;
        self.now += took;
        self.taken[place] += took;
        Turn {
            asked,
            frames,
            bytes: source.bytes * frames,
            took,
            cpu: self.turns.is_suspect(source.port).then_some(took),
            ..Turn::default()
        }
    }

    /// Round trips of a client and a server that each think for 10 µs, within so long: their
    /// number, and the longest time that a frame of theirs waited.
    fn converse(&mut self, long: Duration) -> (u32, Duration) {
        let end = self.now + long;
        let (mut trips, mut longest) = (0, Duration::ZERO);
        while self.now < end {
            for (port, peer) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
                let thought = self.now + Duration::from_micros(10);
                while self.now < thought {
                    self.look();
                }
                let sent = self.now;
                let place = self.sources.len();
                self.sources.push(Source {
                    port,
                    peer,
                    cost: Duration::from_micros(3),
                    bytes: 60,
                    waiting: 1,
                });
                self.taken.push(Duration::ZERO);
                while self.sources[place].waiting > 0 {
                    self.look();
                }
                longest = longest.max(self.now - sent);
                self.sources.pop();
                self.taken.pop();
            }
            trips += 1;
        }
        (trips, longest)
    }
}

fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

#[test]
fn a_conversation_goes_on_beside_floods_of_any_cost() {
    let (alone, _) = Lane::new(Vec::new()).converse(micros(500_000));
    for cost in [1, 3, 10, 50, 200, 1_000] {
        let mut lane = Lane::new(vec![Source::endless(ATTACKER, micros(cost))]);
        // Until it is known for what it is.
        lane.converse(micros(200_000));
        let (trips, longest) = lane.converse(micros(500_000));
        assert!(
            trips * 100 >= alone * 65,
            "{cost} µs: {trips} round trips of {alone}"
        );
        let bound = micros(30).max(3 * micros(cost));
        assert!(longest <= bound, "{cost} µs: one waited for {longest:?}");
        assert!(lane.taken[0] > micros(10_000), "{cost} µs: it got nothing");
    }
}

#[test]
fn a_bulk_transfer_goes_on_beside_a_conversation_and_the_conversation_beside_it() {
    let (alone, _) = Lane::new(Vec::new()).converse(micros(500_000));
    // Full frames, and super-frames of half and of all their size; hundredths of the time.
    for (bytes, cost, least) in [(1500, 2, 25), (32_000, 20, 45), (65_000, 60, 45)] {
        let bulk = Source {
            bytes,
            ..Source::endless(ATTACKER, micros(cost))
        };
        let mut lane = Lane::new(vec![bulk]);
        lane.converse(micros(200_000));
        lane.taken[0] = Duration::ZERO;
        let start = lane.now;
        let (trips, longest) = lane.converse(micros(500_000));
        let share = lane.taken[0].as_micros() * 100 / (lane.now - start).as_micros();
        assert!(share >= least, "{bytes} bytes: {share} % of the time");
        let bound = micros(10) + 2 * micros(cost);
        assert!(
            longest <= bound,
            "{bytes} bytes: one waited for {longest:?}"
        );
        assert!(trips * 100 >= alone * 15, "{bytes}: {trips} of {alone}");
    }
}

#[test]
fn two_floods_do_no_more_harm_than_one() {
    let (alone, _) = Lane::new(Vec::new()).converse(micros(500_000));
    let floods = [PortId(7), PortId(8)].map(|port| Source::endless(port, micros(50)));
    let mut lane = Lane::new(floods.into());
    lane.converse(micros(200_000));
    let (trips, _) = lane.converse(micros(500_000));
    assert!(trips * 100 >= alone * 65, "{trips} of {alone}");
    let shares = [lane.taken[0], lane.taken[1]];
    assert!(shares[0] < 2 * shares[1] && shares[1] < 2 * shares[0]);
}

#[test]
fn a_flood_beside_nothing_takes_all_the_time() {
    let mut lane = Lane::new(vec![Source::endless(ATTACKER, micros(3))]);
    let start = lane.now;
    for _ in 0..1_000 {
        lane.look();
    }
    assert!(lane.taken[0] * 100 >= (lane.now - start) * 95);
}

#[test]
fn time_is_shared_out_evenly_whatever_frames_cost() {
    let sources = [(PortId(4), 2), (PortId(5), 40), (PortId(6), 900)];
    let sources = sources.map(|(port, cost)| Source::endless(port, micros(cost)));
    let mut lane = Lane::new(sources.into());
    for _ in 0..20_000 {
        lane.look();
    }
    let most = *lane.taken.iter().max().unwrap();
    let least = *lane.taken.iter().min().unwrap();
    assert!(most <= 2 * least, "{:?}", lane.taken);
}

#[test]
fn acknowledgements_hold_back_no_bulk() {
    let bulk = Source {
        port: CLIENT,
        peer: SERVER,
        cost: micros(30),
        bytes: 60_000,
        waiting: usize::MAX,
    };
    let mut lane = Lane::new(vec![bulk]);
    let start = lane.now;
    for _ in 0..5_000 {
        lane.sources.push(Source {
            port: SERVER,
            peer: CLIENT,
            cost: micros(2),
            bytes: 60,
            waiting: 1,
        });
        lane.taken.push(Duration::ZERO);
        lane.look();
        lane.sources.pop();
        lane.taken.pop();
    }
    assert!(lane.taken[0] * 10 >= (lane.now - start) * 9);
}

#[test]
fn a_thread_that_lost_its_cpu_has_had_no_dear_frames() {
    let mut turns = Turns::default();
    let mut now = Time::ZERO + Duration::from_secs(1);
    for count in 0..1_000 {
        turns.look();
        now += micros(50);
        let other = Turn {
            asked: 2,
            frames: 1,
            bytes: 60,
            took: micros(3),
            peers: &[SERVER],
            ..Turn::default()
        };
        assert_eq!(turns.charge(now, SERVER, &other), None);
        let suspect = turns.is_suspect(CLIENT);
        let turn = Turn {
            took: micros(4_000),
            cpu: suspect.then_some(micros(3)),
            peers: &[RECEIVER],
            ..other
        };
        assert_eq!(turns.charge(now, CLIENT, &turn), None, "{count}");
    }
}

#[test]
fn a_port_that_has_become_light_is_served_at_once() {
    let mut lane = Lane::new(vec![Source::endless(ATTACKER, micros(3))]);
    lane.converse(micros(50_000));
    lane.sources[0].waiting = 0;
    lane.converse(micros(50_000));
    lane.sources[0].waiting = 1;
    lane.look();
    assert_eq!(lane.sources[0].waiting, 0);
}
