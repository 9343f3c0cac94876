//! Compiles every .proto file with protox, in pure Rust: no protoc is needed. Beside the code it writes down what the edit log
//! and images are made of, a line a field, for the test of their layout (`tests/layout.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What is stored; everything that these refer to is stored, too.
const STORED: [&str; 2] = ["journal.proto", "image.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let include = Path::new("proto");
    println!("cargo::rerun-if-changed=proto");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(include)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|ext| ext == "proto"));
    files.sort();
    let descriptors = protox::compile(&files, [include])?;
    // What each message refers to, and its fields; what each enum's values are.
    let mut types: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    let mut wanted: Vec<String> = Vec::new();
    for file in &descriptors.file {
        let is_stored = STORED.contains(&file.name());
        for message in &file.message_type {
            let name = format!(".{}.{}", file.package(), message.name());
            let line = |field: &_| describe_field(message.name(), field);
            let lines = message
                .field
                .iter()
                .map(|field| line(&(field.name(), field.number(), field.r#type, field.label, field.type_name())));
            let refers = message.field.iter().map(|field| field.type_name().to_owned()).filter(|name| !name.is_empty());
            types.insert(name.clone(), (refers.collect(), lines.collect()));
            wanted.extend(is_stored.then_some(name));
        }
        for choice in &file.enum_type {
            let line = |(name, number): (&str, i32)| format!("{}.{name} = {number}", choice.name());
            let lines = choice.value.iter().map(|value| line((value.name(), value.number())));
            types.insert(format!(".{}.{}", file.package(), choice.name()), (Vec::new(), lines.collect()));
        }
    }
    let (mut seen, mut stored) = (BTreeSet::new(), Vec::new());
    while let Some(name) = wanted.pop() {
        let Some((refers, lines)) = types.get(&name).filter(|_| seen.insert(name.clone())) else { continue };
        wanted.extend(refers.iter().cloned());
        stored.extend(lines.iter().cloned());
    }
    stored.sort();
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("stored_fields.txt");
    std::fs::write(out, stored.join("\n") + "\n")?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

/// Name, number, type and label of a field, as protobuf's descriptors number them.
fn describe_field(message: &str, field: &(&str, i32, Option<i32>, Option<i32>, &str)) -> String {
    let (name, number, kind, label, refers) = field;
    let (kind, label) = (kind.unwrap_or_default(), label.unwrap_or_default());
    format!("{message}.{name} = {number} (type {kind} {refers}, label {label})").replace(" ,", ",")
}
