//! Between the corpus, a text file a target, and the directory of inputs that libFuzzer works on.
//!
//! ```text
//! keep unpack TARGET DIRECTORY     the corpus as files
//! keep pack TARGET DIRECTORY       the files as the corpus, with the named inputs that it had
//! ```

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use pontoon_fuzz::corpus::{self, Input};

/// Inputs kept without a name: of more, some of every length.
const MOST: usize = 300;
/// The longest of them, in bytes.
const LONGEST: usize = 2048;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["unpack", target, directory] => unpack(target, Path::new(directory)),
        ["pack", target, directory] => pack(target, Path::new(directory)),
        _ => Err("keep unpack|pack TARGET DIRECTORY".to_owned()),
    };
    match done {
        Ok(count) => {
            println!("{count} inputs");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn unpack(target: &str, directory: &Path) -> Result<usize, String> {
    let inputs = corpus::load(target)?;
    for (number, input) in inputs.iter().enumerate() {
        let path = directory.join(format!("kept-{number}"));
        fs::write(&path, &input.bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(inputs.len())
}

fn pack(target: &str, directory: &Path) -> Result<usize, String> {
    let complain = |error: std::io::Error| format!("{}: {error}", directory.display());
    // A new target has none yet.
    let mut inputs = corpus::load(target).unwrap_or_default();
    inputs.retain(|input| input.name.is_some());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(complain)? {
        found.push(fs::read(entry.map_err(complain)?.path()).map_err(complain)?);
    }
    found.retain(|bytes| bytes.len() <= LONGEST);
    found.sort_by_key(Vec::len);
    if found.len() > MOST {
        let count = found.len();
        let mut picked = (0..MOST).map(|at| at * count / MOST).peekable();
        let mut at = 0..;
        found.retain(|_| picked.next_if_eq(&at.next().unwrap_or(0)).is_some());
    }
    let named: Vec<Vec<u8>> = inputs.iter().map(|input| input.bytes.clone()).collect();
    found.retain(|bytes| !named.contains(bytes));
    inputs.extend(found.into_iter().map(|bytes| Input { name: None, bytes }));
    let count = inputs.len();
    corpus::store(target, inputs)?;
    Ok(count)
}
