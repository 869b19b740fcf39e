//! Names and ids of containers and networks: made, checked, and found again.

use std::fs::File;
use std::io::{self, Read};

use super::failure::Failure;

/// Longest name taken; what a DNS label may hold.
const NAME_MAX: usize = 63;

const ADJECTIVES: [&str; 24] = [
    "able", "afloat", "brave", "bright", "broad", "calm", "clear", "deep", "eager", "fair",
    "fleet", "gentle", "keen", "light", "lively", "merry", "nimble", "quick", "quiet", "steady",
    "stout", "swift", "trim", "wide",
];

const NOUNS: [&str; 24] = [
    "anchor", "barge", "beacon", "buoy", "canoe", "coracle", "cutter", "dinghy", "ferry", "gull",
    "harbor", "heron", "jetty", "kayak", "lantern", "otter", "pier", "punt", "raft", "rudder",
    "sail", "skiff", "sloop", "tern",
];

/// `count` bytes nobody can guess.
pub(super) fn random<const COUNT: usize>() -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| {
            io::Error::new(error.kind(), format!("can't read /dev/urandom: {error}"))
        })?;
    Ok(bytes)
}

/// A new id: 64 hexadecimal digits, as Docker's.
pub(super) fn new_id() -> io::Result<String> {
    Ok(random::<32>()?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// A name for a container whose user gave none, `quiet_ferry`, that `taken` does not know.
pub(super) fn made_up_name(taken: impl Fn(&str) -> bool) -> io::Result<String> {
    for attempt in 0.. {
        let [first, second, number] = random::<3>()?;
        let adjective = ADJECTIVES[usize::from(first) % ADJECTIVES.len()];
        let noun = NOUNS[usize::from(second) % NOUNS.len()];
        let name = match attempt {
            0..4 => format!("{adjective}_{noun}"),
            _ => format!("{adjective}_{noun}{}", u32::from(number) + attempt),
        };
        if !taken(&name) {
            return Ok(name);
        }
    }
    unreachable!("the attempts never end")
}

/// Accepts what Docker accepts as a name: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
pub(super) fn check(what: &str, name: &str) -> Result<(), Failure> {
    let refuse = |why: &str| Err(Failure::Invalid(format!("{what} name {name:?} {why}")));
    if name.is_empty() {
        return Err(Failure::Invalid(format!("a {what} name can't be empty")));
    }
    if name.len() > NAME_MAX {
        return refuse(&format!("is longer than {NAME_MAX} bytes"));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return refuse("must begin with a letter or a digit");
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    {
        return refuse("may hold only letters, digits, '_', '.' and '-'");
    }
    Ok(())
}

/// Finds by name, by id, or by the beginning of one id. `entries` are (id, name).
pub(super) fn resolve<'a>(
    what: &str,
    wanted: &str,
    entries: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Result<&'a str, Failure> {
    if let Some((id, _)) = entries
        .clone()
        .find(|(id, name)| *name == wanted || *id == wanted)
    {
        return Ok(id);
    }
    let mut by_prefix = entries.filter(|(id, _)| !wanted.is_empty() && id.starts_with(wanted));
    match (by_prefix.next(), by_prefix.next()) {
        (Some((id, _)), None) => Ok(id),
        (Some((_, one)), Some((_, other))) => Err(Failure::Conflict(format!(
            "{wanted:?} begins the id of more than one {what} ({one}, {other}): give more of it"
        ))),
        (None, _) => Err(Failure::NotFound(format!("there is no {what} {wanted:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_docker_takes() {
        for good in ["a", "web-1", "0.b_c", "A"] {
            assert_eq!(check("container", good), Ok(()), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"a".repeat(64)] {
            assert!(check("container", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn resolves_name_then_id_then_beginning_of_id() {
        let entries = [("abc1", "web"), ("abd2", "abc1x"), ("0f00", "abd")];
        let find = |wanted| resolve("container", wanted, entries.iter().copied());
        assert_eq!(find("web"), Ok("abc1"));
        assert_eq!(find("abc1"), Ok("abc1"));
        assert_eq!(
            find("abd"),
            Ok("0f00"),
            "a name wins over the beginning of an id"
        );
        assert_eq!(find("0"), Ok("0f00"));
        assert!(matches!(find("ab"), Err(Failure::Conflict(_))));
        assert!(matches!(find(""), Err(Failure::NotFound(_))));
        assert!(matches!(find("zz"), Err(Failure::NotFound(_))));
    }

    #[test]
    fn made_up_names_avoid_those_taken() {
        let name = made_up_name(|name| !name.ends_with('7')).unwrap();
        assert!(name.ends_with('7'));
        assert_eq!(check("container", &name), Ok(()));
    }
}
