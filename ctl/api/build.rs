//! What types of other crates are in the API's document.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    utoipa_config::Config::new()
        .alias_for("IpAddr", "String")
        .alias_for("IpNet", "String")
        .alias_for("NameServer", "String")
        .alias_for("PathBuf", "String")
        .write_to_file();
}
