//! One invariant each: values in, what is wrong out.

pub mod replicas;
pub mod tree;
