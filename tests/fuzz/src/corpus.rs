//! The inputs that are kept: a text file a target, one input in hexadecimal a line.
//!
//! A line that starts with `#` names the input below it: those that once made a target fail have
//! such a name. The rest was kept for the code that it reaches.

use std::fs;
use std::path::PathBuf;

/// One kept input.
#[derive(Clone, Debug)]
pub struct Input {
    /// What it once showed; of most inputs none.
    pub name: Option<String>,
    pub bytes: Vec<u8>,
}

/// A fuzz target's name, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 4] = [
    ("frame", crate::frame),
    ("fragments", crate::fragments),
    ("nat", crate::nat),
    ("api", crate::api),
];

/// The file that keeps a target's inputs.
pub fn path(target: &str) -> PathBuf {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    PathBuf::from(directory).join(format!("{target}.txt"))
}

/// The kept inputs of a target.
///
/// # Errors
///
/// The file can't be read, or a line of it is not hexadecimal; the sentence says which.
pub fn load(target: &str) -> Result<Vec<Input>, String> {
    let path = path(target);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut name = None;
    let mut inputs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(comment) = line.strip_prefix('#') {
            name = Some(comment.trim().to_owned());
            continue;
        }
        let bytes = decode(line).ok_or_else(|| {
            let line = number + 1;
            format!("{}: line {line} is not hexadecimal", path.display())
        })?;
        let name = name.take();
        inputs.push(Input { name, bytes });
    }
    Ok(inputs)
}

/// Writes the inputs of a target: the named ones first, the others by length.
///
/// # Errors
///
/// The file can't be written.
pub fn store(target: &str, mut inputs: Vec<Input>) -> Result<(), String> {
    inputs.sort_by(|a, b| {
        let rank = |input: &Input| (input.name.is_none(), input.bytes.len());
        rank(a).cmp(&rank(b)).then_with(|| a.bytes.cmp(&b.bytes))
    });
    let mut text = String::new();
    for input in &inputs {
        if let Some(name) = &input.name {
            text += &format!("# {name}\n");
        }
        text.extend(input.bytes.iter().map(|byte| format!("{byte:02x}")));
        text.push('\n');
    }
    let path = path(target);
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn decode(line: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = line
        .chars()
        .map(|digit| Some(digit.to_digit(16)? as u8))
        .collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    pairs
        .remainder()
        .is_empty()
        .then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}
