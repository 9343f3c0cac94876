//! Tests that `proto/src/generated` is what the .proto files say, and that what is stored belongs to a layout version.
//!
//! The generated code is checked in, and the generator is this crate's build script: it and the libraries below it, a tenth of what
//! a build would have to compile, are compiled for these tests only.

#[cfg(test)]
mod generated;
#[cfg(test)]
mod layout;
