//! Whole networks under a simulated clock, drawn from seeds: thousands of them.
//!
//! | setting | what |
//! |---|---|
//! | `PONTOON_SIM_SEED=N` | runs this one, and tells what is in it |
//! | `PONTOON_SIM_PCAP=FILE` | with it: writes every frame at every port, as pcapng |
//! | `PONTOON_SIM_SEEDS=COUNT` | how many are run |
//! | `PONTOON_SIM_SECONDS=TIME` | runs new ones for so long instead |
//! | `PONTOON_SIM_FIRST=N` | the first one |

use std::fs::File;
use std::io::BufWriter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pontoon_tests::simulation::world::{Report, World};

/// How many seeds an ordinary run has; one takes some milliseconds when optimised.
const SEEDS: u64 = if cfg!(debug_assertions) { 100 } else { 5000 };

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={value:?} is no number")))
}

/// Lives through the world of a seed, and says what went wrong, a panic too.
fn live(world: &mut World) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("of something")))
    })
}

// Conforms: PROOF-simulation RFC4787-11
// Feature: simulation
#[test]
fn every_world_holds_together() {
    if let Some(seed) = setting("PONTOON_SIM_SEED") {
        return one(seed);
    }
    let first = setting("PONTOON_SIM_FIRST").unwrap_or(0);
    let seconds = setting("PONTOON_SIM_SECONDS");
    let count = match (setting("PONTOON_SIM_SEEDS"), seconds) {
        (Some(count), _) => count,
        (None, Some(_)) => u64::MAX - first,
        (None, None) => SEEDS,
    };
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let next = AtomicU64::new(first);
    let failures = Mutex::new(Vec::new());
    let sum = Mutex::new((0, Report::default()));
    let work = || {
        while until.is_none_or(|until| Instant::now() < until) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            match live(&mut World::new(seed)) {
                Ok(report) => {
                    let (worlds, sum) = &mut *sum.lock().unwrap();
                    *worlds += 1;
                    sum.complete += report.complete;
                    sum.reset += report.reset;
                    sum.stalled += report.stalled;
                    sum.abandoned += report.abandoned;
                    sum.frames += report.frames;
                    sum.time += report.time;
                }
                Err(error) => {
                    let mut failures = failures.lock().unwrap();
                    failures.push((seed, error));
                    if failures.len() >= 10 {
                        break;
                    }
                }
            }
        }
    };
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (worlds, sum) = sum.into_inner().unwrap();
    println!(
        "{worlds} worlds in {:.1?}: {} flows complete, {} reset ({} stalled), {} abandoned; {} frames in {} \
         simulated hours",
        start.elapsed(),
        sum.complete,
        sum.reset,
        sum.stalled,
        sum.abandoned,
        sum.frames,
        sum.time.as_secs() / 3600,
    );
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    let told: Vec<String> = failures
        .iter()
        .map(|(seed, error)| {
            format!(
                "seed {seed}: {error}\n    again: PONTOON_SIM_SEED={seed} \
                 PONTOON_SIM_PCAP={seed}.pcapng cargo test -p pontoon-tests --test worlds every"
            )
        })
        .collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
    assert!(sum.stalled <= 2 + sum.complete / 10_000, "{sum:?}");
}

fn one(seed: u64) {
    let mut world = World::new(seed);
    println!("seed {seed}: {:#?}", world.plan);
    let pcap = std::env::var_os("PONTOON_SIM_PCAP");
    if pcap.is_some() {
        world.keep_frames();
    }
    let lived = live(&mut world);
    if let Some(path) = pcap {
        let file = File::create(&path);
        let written = file.and_then(|file| world.write_pcapng(BufWriter::new(file)));
        written.unwrap_or_else(|error| panic!("{} can't be written: {error}", path.display()));
        println!("every frame is in {}", path.display());
    }
    println!(
        "{:?}",
        lived.unwrap_or_else(|error| panic!("seed {seed}: {error}"))
    );
}

// Feature: simulation
#[test]
fn a_seed_is_the_same_world_every_time() {
    for seed in 0..100 {
        let [once, again] = [(); 2].map(|()| live(&mut World::new(seed)));
        assert_eq!(once, again, "seed {seed}");
    }
}
