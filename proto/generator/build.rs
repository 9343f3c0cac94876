//! Compiles every .proto file with protox, in pure Rust: no protoc is needed. Beside the code it writes down what the edit log
//! and images are made of, a line a field, for the test of their layout (`layout.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use protox::prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
};

/// What is stored; everything that these refer to is stored, too.
const STORED: [&str; 2] = ["journal.proto", "image.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let include = Path::new("../proto");
    println!("cargo::rerun-if-changed=../proto");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(include)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|ext| ext == "proto"));
    files.sort();
    let descriptors = protox::compile(&files, [include])?;
    let mut types = Types::new();
    let mut wanted: Vec<String> = Vec::new();
    for file in &descriptors.file {
        let package = format!(".{}", file.package());
        let known: Vec<String> = types.keys().cloned().collect();
        describe_enums(&package, &file.enum_type, &mut types);
        for message in &file.message_type {
            describe_message(&package, message, &mut types);
        }
        if STORED.contains(&file.name()) {
            wanted.extend(types.keys().filter(|name| !known.contains(name)).cloned());
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

/// What each message or enum refers to, and its lines.
type Types = BTreeMap<String, (Vec<String>, Vec<String>)>;

/// Describes a message of the package or message `within`, and those nested in it.
fn describe_message(within: &str, message: &DescriptorProto, types: &mut Types) {
    let name = format!("{within}.{}", message.name());
    let lines = message.field.iter().map(|field| describe_field(&name, message, field)).collect();
    let refers = message.field.iter().map(|field| field.type_name().to_owned()).filter(|name| !name.is_empty());
    types.insert(name.clone(), (refers.collect(), lines));
    describe_enums(&name, &message.enum_type, types);
    for nested in &message.nested_type {
        describe_message(&name, nested, types);
    }
}

fn describe_enums(within: &str, enums: &[EnumDescriptorProto], types: &mut Types) {
    for choice in enums {
        let name = format!("{within}.{}", choice.name());
        let line = |value: &EnumValueDescriptorProto| format!("{}.{} = {}", short(&name), value.name(), value.number());
        types.insert(name.clone(), (Vec::new(), choice.value.iter().map(line).collect()));
    }
}

/// Name, number, type, label and choice (`oneof`, also that of an `optional` field) of a field, as protobuf's descriptors say.
fn describe_field(of: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let (kind, label) = (field.r#type.unwrap_or_default(), field.label.unwrap_or_default());
    let refers = if field.type_name().is_empty() { String::new() } else { format!(" {}", field.type_name()) };
    let one_of = field.oneof_index.and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?));
    let one_of = one_of.map_or(String::new(), |one_of| format!(", one of {}", one_of.name()));
    format!("{}.{} = {} (type {kind}{refers}, label {label}{one_of})", short(of), field.name(), field.number())
}

/// The name without its package.
fn short(name: &str) -> &str {
    name.strip_prefix(".dfs.v1.").unwrap_or(name)
}
