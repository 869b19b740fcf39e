use std::os::unix::fs::PermissionsExt;

use super::*;

/// A run directory with a file of these bytes.
fn with_file(bytes: &[u8]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(NAME), bytes).unwrap();
    directory
}

fn whole() -> Vec<u8> {
    let mut bytes = header(7).unwrap().to_vec();
    bytes.extend([1; 3 * RECORD]);
    bytes
}

#[test]
fn a_file_of_this_boot_and_namespace_is_read() {
    let directory = with_file(&whole());
    assert_eq!(load(directory.path(), 7), Some(vec![[1; RECORD]; 3]));
    // What was cut off in the middle of a record ends before it.
    let directory = with_file(&whole()[..RECORD * 3 - 1]);
    assert_eq!(load(directory.path(), 7), Some(vec![[1; RECORD]; 1]));
}

#[test]
fn any_other_file_is_passed_over() {
    let nothing = tempfile::tempdir().unwrap();
    assert_eq!(load(nothing.path(), 7), None);
    assert_eq!(
        load(with_file(&whole()).path(), 8),
        None,
        "another namespace"
    );
    assert_eq!(load(with_file(b"").path(), 7), None, "empty");
    assert_eq!(load(with_file(&[0; 4096]).path(), 7), None, "zeros");
    // Magic, version, size of a record, namespace, boot.
    for at in [0, 8, 12, 16, 30] {
        let mut bytes = whole();
        bytes[at] ^= 1;
        assert_eq!(load(with_file(&bytes).path(), 7), None, "byte {at}");
    }
    let writable = with_file(&whole());
    let path = writable.path().join(NAME);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(
        load(writable.path(), 7),
        None,
        "anybody could have written it"
    );
    let linked = with_file(b"");
    let (path, to) = (linked.path().join(NAME), linked.path().join("elsewhere"));
    fs::write(&to, whole()).unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&to, &path).unwrap();
    assert_eq!(load(linked.path(), 7), None, "a symbolic link");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(load(linked.path(), 7), None, "a directory");
}

#[test]
fn a_switchs_connections_are_written_to_a_new_file() {
    let directory = with_file(b"of another version");
    // Left by one that died in between.
    fs::write(directory.path().join("connections.new"), b"half").unwrap();
    let (switch, _events) = Switch::start(switch::Settings {
        workers: 1,
        ..Default::default()
    })
    .unwrap();
    let switch = Arc::new(switch);
    let mut journal = Journal::start(directory.path(), 7, switch, OwnerBook::default()).unwrap();
    assert_eq!(load(directory.path(), 7), Some(Vec::new()));
    journal.close();
    assert_eq!(load(directory.path(), 7), Some(Vec::new()));
    assert!(!directory.path().join("connections.new").exists());
}
