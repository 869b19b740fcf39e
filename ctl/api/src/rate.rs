//! How people write rates, sizes and chances: `100mbit`, `64kb`, `0.1%`.

use std::fmt::Display;

/// What may pass in a second, in bits: a number with `bit`, `kbit`, `mbit` or `gbit`, or without a
/// unit. `tc` takes `mbps` for megabytes, and others for megabits, so it is refused.
pub fn parse_bits(text: &str) -> Result<u64, String> {
    let units = [
        ("gbit", 1_000_000_000),
        ("mbit", 1_000_000),
        ("kbit", 1_000),
        ("bit", 1),
    ];
    let bare = text.strip_suffix("/s").unwrap_or(text);
    parse(bare, &units).ok_or_else(|| {
        format!("`{text}` is not a rate: write it in bit, kbit, mbit or gbit a second, as 100mbit")
    })
}

/// Bytes: a number with `b`, `kb`, `mb` or `gb` (thousands), `kib`, `mib` or `gib`, or without a
/// unit.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [
        ("gib", 1 << 30),
        ("mib", 1 << 20),
        ("kib", 1 << 10),
        ("gb", 1_000_000_000),
        ("mb", 1_000_000),
        ("kb", 1_000),
        ("b", 1),
    ];
    parse(text, &units)
        .ok_or_else(|| format!("`{text}` is not a number of bytes: write it as 64kb or 1mib"))
}

/// A chance as parts of a million: `0.1%`.
pub fn parse_percent(text: &str) -> Result<u32, String> {
    let percent = text
        .strip_suffix('%')
        .and_then(|number| exact(number, 10_000));
    percent
        .and_then(|parts| u32::try_from(parts).ok())
        .filter(|&parts| parts <= 1_000_000)
        .ok_or_else(|| {
            format!("`{text}` is not a chance from 0% to 100%, of which 0.0001% is the least")
        })
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let named = units.iter().find_map(|(name, factor)| {
        let number = text.strip_suffix(name)?;
        Some((number.trim_end(), *factor))
    });
    let (number, factor) = named.unwrap_or((&text, 1));
    exact(number, factor)
}

/// A decimal number times `factor`, if that is whole.
fn exact(number: &str, factor: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 9 {
        return None;
    }
    let scale = 10_u64.pow(part.len() as u32);
    let parts = u128::from(part.parse::<u64>().ok()?) * u128::from(factor);
    if !parts.is_multiple_of(u128::from(scale)) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    whole.checked_add(u64::try_from(parts / u128::from(scale)).ok()?)
}

/// As [`parse_bits`] takes it.
pub fn bits(rate: u64) -> String {
    let units = [
        ("gbit", 1_000_000_000),
        ("mbit", 1_000_000),
        ("kbit", 1_000),
    ];
    // The largest that leaves few digits.
    let fits = units
        .iter()
        .find(|(_, factor)| rate >= *factor && rate.is_multiple_of(factor / 1000));
    match fits {
        Some((name, factor)) => format!("{}{name}", decimal(rate, *factor)),
        None => format!("{rate}bit"),
    }
}

/// As [`parse_percent`] takes it.
pub fn percent(per_million: u32) -> String {
    format!("{}%", decimal(per_million.into(), 10_000))
}

/// `count` in units of so many, exactly, without trailing zeros.
fn decimal(count: u64, unit: u64) -> impl Display {
    let (whole, rest) = (count / unit, count % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, rate) in [
            ("100mbit", 100_000_000),
            ("1gbit", 1_000_000_000),
            ("1.5Mbit/s", 1_500_000),
            ("64 kbit", 64_000),
            ("8000bit", 8_000),
            ("8000", 8_000),
        ] {
            assert_eq!(parse_bits(text), Ok(rate), "{text}");
        }
        for bad in [
            "",
            "mbit",
            "1mbps",
            "1mb",
            "-1mbit",
            "1e3",
            "1.5",
            "1.mbit",
            ".5mbit",
            "+1mbit",
            "99999999999999999999gbit",
            "18446744073709551615kbit",
        ] {
            assert!(parse_bits(bad).is_err(), "{bad:?}");
        }
        for text in [
            "100mbit",
            "1gbit",
            "1.5mbit",
            "64kbit",
            "999bit",
            "1.234567gbit",
        ] {
            assert_eq!(
                parse_bits(&bits(parse_bits(text).unwrap())),
                parse_bits(text)
            );
        }
        assert_eq!(bits(1_500_000), "1.5mbit");
        assert_eq!(bits(1_234_567), "1234.567kbit");
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("64kb", 64_000),
            ("1MiB", 1 << 20),
            ("1514", 1514),
            ("3b", 3),
        ] {
            assert_eq!(parse_bytes(text), Ok(size), "{text}");
        }
        assert!(parse_bytes("64k").is_err());
    }

    #[test]
    fn chances() {
        for (text, parts) in [
            ("0%", 0),
            ("100%", 1_000_000),
            ("1%", 10_000),
            ("0.1%", 1_000),
            ("0.0001%", 1),
        ] {
            assert_eq!(parse_percent(text), Ok(parts), "{text}");
            assert_eq!(percent(parts), text);
        }
        for bad in [
            "1",
            "0.01",
            "101%",
            "100.0001%",
            "-1%",
            "%",
            "0.00001%",
            "1%%",
        ] {
            assert!(parse_percent(bad).is_err(), "{bad:?}");
        }
    }
}
