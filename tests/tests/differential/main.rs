//! The kernel's NAT and pontoon's, side by side: the same packets go through both, and what comes
//! out is compared packet by packet. Ports that a NAT chooses freely must correspond one to one.
//!
//! The kernel's is nftables masquerading and DNAT in a namespace of the test's own. Conversations
//! are drawn from seeds, so every run is the same; `PONTOON_DIFFERENTIAL=1000` runs more of them,
//! `PONTOON_DIFFERENTIAL=7..8` those. Where the two are meant to differ, `differences.rs` says so
//! and why; after a step in which they did, nothing more is said in that conversation, whose states
//! then differ.

mod differences;
mod kernel;
mod net;
mod ours;
mod packet;
mod scenario;
mod seen;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use differences::{Case, DIFFERENCES, intended};
use kernel::Kernel;
use net::{Side, Who};
use ours::Ours;
use packet::{answer, complete_header, error, fragments, header_len, reassemble};
use scenario::{Say, Step, Twist, draw};
use seen::{Names, Seen};

/// Scenarios of an ordinary run.
const SCENARIOS: u64 = 600;

/// One of the two NATs, as a run sees it.
#[derive(Default)]
struct System {
    names: Names,
    /// What each step sent, from where, and what came out, as bytes.
    sent: Vec<Option<(Who, Vec<u8>)>>,
    came: Vec<Vec<(Side, Vec<u8>)>>,
}

// Conforms: PROOF-differential
// Feature: nat-state
#[test]
fn the_kernels_nat_and_ours_do_the_same() {
    if !pontoon_tests::is_root_or_skip() {
        return;
    }
    let mut kernel = match Kernel::new() {
        Ok(kernel) => kernel,
        Err(why) => return pontoon_tests::skip(&why),
    };
    let mut met: BTreeMap<&str, usize> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut forwarded = 0;
    for seed in seeds() {
        match run(&mut kernel, seed, &mut met) {
            Ok(count) => forwarded += count,
            Err(table) => failures.push(table),
        }
        if failures.len() == 3 {
            break;
        }
    }
    println!("{forwarded} packets came out the same");
    for difference in DIFFERENCES {
        let times = met.get(difference.name).copied().unwrap_or(0);
        println!(
            "{times:6} times  {}: {}",
            difference.name, difference.reason
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(forwarded > 0);
}

fn seeds() -> Range<u64> {
    let Ok(setting) = std::env::var("PONTOON_DIFFERENTIAL") else {
        return 0..SCENARIOS;
    };
    let wrong = "PONTOON_DIFFERENTIAL is a number of scenarios, or FIRST..END";
    match setting.split_once("..") {
        None => 0..setting.parse().expect(wrong),
        Some((first, end)) => first.parse().expect(wrong)..end.parse().expect(wrong),
    }
}

/// Runs one scenario through both; how many packets came out of both, or a table of the steps up to
/// the one in which they differ and should not.
fn run(
    kernel: &mut Kernel,
    seed: u64,
    met: &mut BTreeMap<&'static str, usize>,
) -> Result<usize, String> {
    kernel.flush();
    let mut ours = Ours::new(seed);
    let (flows, steps) = draw(seed);
    let mut systems = [System::default(), System::default()];
    let (mut parted, mut reset) = (HashSet::new(), HashSet::new());
    let mut tables = vec![String::new(); flows.len()];
    let mut same = 0;
    for (number, step) in steps.iter().enumerate() {
        let [theirs, mine] = &mut systems;
        let flow = &flows[step.flow];
        let packets = [
            theirs.packet(step, flow.client),
            mine.packet(step, flow.client),
        ];
        let [Some((from, to_kernel)), Some((_, to_ours))] = packets.clone() else {
            // Nothing came out of the step that this one is about.
            skip(&mut systems);
            continue;
        };
        if parted.contains(&step.flow) {
            skip(&mut systems);
            continue;
        }
        let pieces = twisted(step.twist, to_kernel);
        let kernel_out = pieces
            .iter()
            .flat_map(|piece| kernel.send(from, piece))
            .collect();
        let pieces = twisted(step.twist, to_ours);
        let ours_out = pieces
            .iter()
            .flat_map(|piece| ours.send(from, piece))
            .collect();
        let [theirs, mine] = &mut systems;
        let kernel_seen = theirs.take(step, packets[0].clone(), kernel_out);
        let ours_seen = mine.take(step, packets[1].clone(), ours_out);
        let table = &mut tables[step.flow];
        let odd = match step.twist {
            Twist::None => String::new(),
            twist => format!(", {twist:?}"),
        };
        *table += &format!("{number:4} {from:?} {:?}{odd}\n", step.say);
        *table += &format!("      kernel  {kernel_seen:?}\n      pontoon {ours_seen:?}\n");
        if kernel_seen == ours_seen {
            if kernel_seen.iter().any(Seen::is_reset) {
                reset.insert(step.flow);
            }
            same += kernel_seen.len();
            continue;
        }
        let case = Case {
            flow,
            step,
            after_reset: reset.contains(&step.flow),
            kernel: &kernel_seen,
            ours: &ours_seen,
        };
        match intended(&case) {
            Some(difference) => {
                *met.entry(difference.name).or_insert(0) += 1;
                parted.insert(step.flow);
            }
            None => {
                let again = format!("PONTOON_DIFFERENTIAL={seed}..{}", seed + 1);
                return Err(format!("scenario {seed} ({again}), {flow:?}\n{table}"));
            }
        }
    }
    Ok(same)
}

fn skip(systems: &mut [System; 2]) {
    for system in systems {
        system.sent.push(None);
        system.came.push(Vec::new());
    }
}

impl System {
    /// The packet of a step, with this system's ports, and who sends it.
    fn packet(&self, step: &Step, client: Who) -> Option<(Who, Vec<u8>)> {
        let id = 0x4000 + self.sent.len() as u16;
        match &step.say {
            Say::Client(sketch) => Some((client, sketch.build())),
            Say::Again { step } => self.sent[*step].clone(),
            Say::Answer { to, flags, payload } => {
                let (who, packet) = self.arrived(*to)?;
                Some((who, answer(packet, *flags, &vec![7; *payload], id)?))
            }
            Say::Error {
                about,
                kinds,
                quote,
                by_router,
            } => {
                let (who, packet) = self.arrived(*about)?;
                if packet::is_icmp_error(packet) {
                    return None;
                }
                let ipv6 = packet[0] >> 4 == 6;
                // Inside there is no router but ours.
                let router = (*by_router && who.side() == Side::Outside)
                    .then(|| if who == Who::P { Who::Q } else { Who::P }.address(ipv6));
                let kind = kinds[usize::from(ipv6)];
                Some((who, error(packet, router, kind, *quote, id)))
            }
        }
    }

    /// The packet that came out of a step, and who got it.
    fn arrived(&self, step: usize) -> Option<(Who, &[u8])> {
        let (side, packet) = self.came[step].first()?;
        let (_, dst) = packet::ends(packet);
        let who = Who::ALL
            .into_iter()
            .find(|who| who.side() == *side && who.address(dst.is_ipv6()) == dst)?;
        Some((who, packet))
    }

    fn take(
        &mut self,
        step: &Step,
        sent: Option<(Who, Vec<u8>)>,
        out: Vec<(Side, Vec<u8>)>,
    ) -> Vec<Seen> {
        let in_pieces = matches!(step.twist, Twist::Fragments { .. });
        let mut came = Vec::new();
        for side in [Side::A, Side::B, Side::Outside] {
            let of_side = out.iter().filter(|(at, _)| *at == side);
            let packets = of_side.map(|(_, packet)| packet.clone()).collect();
            came.extend(reassemble(packets).into_iter().map(|packet| (side, packet)));
        }
        self.names.step = self.sent.len();
        let seen = came
            .iter()
            .map(|(side, packet)| self.names.see(*side, packet, !in_pieces))
            .collect();
        self.sent.push(sent);
        self.came.push(came);
        seen
    }
}

/// The packet as it is sent, which may be in pieces.
fn twisted(twist: Twist, mut packet: Vec<u8>) -> Vec<Vec<u8>> {
    let ipv4 = packet[0] >> 4 == 4;
    let header = header_len(&packet);
    match twist {
        Twist::None => {}
        Twist::LastHop => {
            packet[if ipv4 { 8 } else { 7 }] = 1;
            complete_header(&mut packet);
        }
        Twist::Options if ipv4 && header == 20 => {
            packet.splice(20..20, [1; 8]);
            packet[0] = 0x47;
            let length = packet.len() as u16;
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            complete_header(&mut packet);
        }
        Twist::BadHeaderSum if ipv4 => packet[10] ^= 0x55,
        Twist::BadTransportSum => {
            if let Some(last) = packet[header..].last_mut() {
                *last ^= 0x55;
            }
        }
        Twist::Fragments { backwards } if packet.len() >= header + 40 => {
            let mut pieces = fragments(&packet, 24.max((packet.len() - header) / 24 * 8));
            if backwards {
                pieces.reverse();
            }
            return pieces;
        }
        Twist::Options | Twist::BadHeaderSum | Twist::Fragments { .. } => {}
    }
    vec![packet]
}
